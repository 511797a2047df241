"""OpenAI's chat (`request`, `answer`) and its older completions (`completion`)."""
