"""A data folder checked by its own evidence: signatures, hashes and links, then the rounds redone.

`verify` needs no torch; `replay` does. Both only read.
"""
