"""Errors, sorted by whose fault they are (DESIGN.md section 9)."""


class ProtocolError(Exception):
    """A rule of the protocol was broken. Raise a subclass, never this."""


class LocalFault(ProtocolError):
    """We broke the rule: a bug here. Crash."""


class Ignore(ProtocolError):
    """Unusable, but an honest peer may have sent it (late, duplicate). Drop it, keep the peer."""


class Reject(ProtocolError):
    """No honest peer sends this (bad signature, bad shape). Drop it, lower the peer's score."""


class ConfigError(Exception):
    """The operator can fix it. The message is one line that says what to do."""

    def __init__(self, message: str, *, exit_code: int = 78) -> None:
        super().__init__(message)
        self.exit_code = exit_code
