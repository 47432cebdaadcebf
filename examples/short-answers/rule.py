"""The rule that labels a reply. Anyone can check it by counting tokens.

A reply is desirable when the model ends it by itself within `MAX_TOKENS`
tokens, and undesirable when it is still talking then.
"""

MAX_TOKENS = 48


def is_desirable(reply):
    """`reply` is one line of `prospect generate --json`."""
    return bool(reply["finished"]) and reply["num_tokens"] <= MAX_TOKENS
