"""Model servers in containers, through the Docker Engine's API.

* `backend`       llama.cpp's server in a container, as the model actor uses it
* `containers`    this gateway's containers: start, log, end (an event), removal, and those of a dead gateway
* `container`     one container from start to removal
* `orphans`       containers that a dead gateway left, to be taken over or removed
* `events`        the engine's events about our containers; an ended stream is opened again
* `images`        checks for an image, and pulls it with progress
* `surroundings`  whether the gateway runs in a container: its name, its networks, its paths on the host
* `spec`          pure: the settings of a container, and the digest by which it is recognized
* `engine`        the client: the engine's address, its answers, and its errors in words
* `schema`        pure: the engine's answers, as far as they are read
"""
