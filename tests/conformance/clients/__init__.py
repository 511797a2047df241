"""`make clients`: real clients, each installed apart, hold conversations with the gateway.

* `__main__`   runs them, and prints which feature of which client works with which backend
* `install`    puts them into a cache folder outside of the checkout: virtual environments, npm's packages
* `programs`   what is run inside of their environments: a file for each client
"""
