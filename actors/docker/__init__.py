"""Model servers in containers, through the Docker Engine's API.

* `engine`        the client: where the engine is, what it says, and its refusals in words
* `schema`        pure: what the engine answers, as far as it is read
* `images`        whether an image is there, and pulling it, with progress
* `spec`          pure: what a container is made of, and the digest by which it is recognized
* `surroundings`  whether the gateway is a container itself: its name, its networks, its paths on the host
* `events`        what the engine tells of our containers; streams that end are asked for anew
* `orphans`       what a dead gateway left running, to be taken over or removed
* `container`     one container, from its start to its removal
* `containers`    this gateway's containers: start, log, end (an event), removal, and what a dead one left

`actors.backends.docker` makes model servers of them.
"""
