"""The web page: `/ui`, and `/` for browsers. It has no data of its own: it asks `/admin/*` and `/v1/*`.

* `files`    pure: the page's files as they are sent: hashed, compressed, with their headers
* `serving`  the routes

The page itself is in `static/`, and README.md says how it is made.
"""
