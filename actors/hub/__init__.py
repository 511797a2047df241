"""Models by name: from a Hugging Face repository to files on the disk.

* `names`     pure. `org/repo:variant`, what a variant means, which file is chosen when none is given.
* `download`  one file over HTTP: resumes where it was, checks the sha256, never shows a partial file.
* `site`      a hub over HTTP: the one reader of its lists, refusals and headers.
* `hub`       `Hub.find(name)`: the files of a model, from the cache, or fetched from the hub. Tokens and
              the layout of the cache are huggingface_hub's business.
* `progress`  how far a download is: for the log, /health, waiting clients and the bar.
* `commands`  `run.py pull | models | rm`.

huggingface_hub is imported when it is first needed: it costs a quarter of a second and 24 MB.
"""
