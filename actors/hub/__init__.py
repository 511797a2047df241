"""Models by name: from a Hugging Face repository to files on the disk.

* `hub`       `Hub.find(name)`: the files of a model, from the cache, or fetched from the hub
* `site`      a hub over HTTP: the one reader of its lists, refusals and headers
* `download`  one file over HTTP: resumes where it was, checks the sha256, never shows a partial file
* `cache`     the files that are there; the layout is huggingface_hub's

What a name means is in `actors.model_names`. huggingface_hub is imported when it is first needed: it costs a
quarter of a second and 24 MB.
"""
