"""Who may use a route: decided before a request costs anything.

`gate` is what the router asks; `apikeys`, `tokens`, `cors` and `rates` are the
four questions, each a function of plain data. `keysets` is the one that goes
out, for the public keys of an issuer of tokens.
"""
