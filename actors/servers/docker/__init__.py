"""Model servers in containers, through the Docker Engine's API.

* `backend`       llama.cpp's server in one, as the model actor drives it
* `containers`    this gateway's containers: start, log, end (an event), removal, and what a dead one left
* `container`     one container, from its start to its removal
* `orphans`       what a dead gateway left running, to be taken over or removed
* `events`        what the engine tells of our containers; streams that end are asked for anew
* `images`        whether an image is there, and pulling it, with progress
* `surroundings`  whether the gateway is a container itself: its name, its networks, its paths on the host
* `spec`          pure: what a container is made of, and the digest by which it is recognized
* `engine`        the client: where the engine is, what it says, and its refusals in words
* `schema`        pure: what the engine answers, as far as it is read
"""
