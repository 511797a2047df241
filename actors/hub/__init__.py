"""Models by name: from a Hugging Face repository to files on the disk.

* `hub`       `Hub.find(name)`: the files of a model, from the cache, or fetched from the hub
* `site`      a hub over HTTP: the one reader of its lists, errors and headers
* `download`  one file over HTTP: resumes, checks the sha256, never shows a partial file
* `cache`     the downloaded files, in huggingface_hub's layout

The meaning of names is in `actors.model_names`. huggingface_hub is imported when it is first needed: the
import costs a quarter of a second and 24 MB.
"""
