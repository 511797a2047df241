"""Saved prompts: what a model has read is restored after its server was stopped and started again.

* `keeping`    the gateway's saved prompts, and who keeps those of each running server
* `keeper`     saves and restores the prompts of one running server
* `slots`      the slots of a llama.cpp server, over HTTP
* `store`      the folder of saved prompts
* `identity`   which saved prompts a server may use
* `records`    pure. What one server has read: whose prompt is in a slot
* `seats`      pure. The slot of each request to a server whose keys are kept apart
* `chain`      pure. The beginning of a prompt, message by message, as digests
* `recall`     pure. The request that brings a prompt from a server's own cache back into a slot
* `economics`  pure. What is worth saving, restoring and keeping

README.md has the reasons.
"""
