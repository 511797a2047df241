"""The configuration: its schema, and how config.yaml is read into it without dropping anything in silence.

* `schema`       all fields with their types, defaults and limits: `Config` and its sections.
* `document`     YAML texts as plain data that knows its lines: duplicate keys, aliases, tags; several as one.
* `environment`  `${NAME}` in text, replaced after the YAML is read.
* `fields`       plain data into the schema's structures, by the type of each field; agents' options too.
* `changes`      the difference of two configurations, and what it takes to apply it.
* `checks`       what makes no sense although each field is valid.
* `parameters`   the parameters of requests that a model's settings may give.
* `key_secrets`  the secrets and expiry dates of API keys
* `certificate`  the certificate of `server.tls`, for the gateway and for programs that ask it
* `masking`      what must not be shown: secrets by their field, their name, their place.
* `json_schema`  the schema as editors read it
* `file`         all of it in order, and the report of all faults by line.
"""
