"""Why a service does not do what it was asked, besides the errors of what was asked itself."""

from __future__ import annotations

from opentar.core.errors import OpenTarError


class ServiceError(OpenTarError):
    """Base of the errors of the service."""


class UnknownModelError(ServiceError):
    """No model of this name is served."""


class UnsupportedError(ServiceError):
    """The model, or this server, cannot do such a thing. `param` is the field that asked for it."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class PictureUrlError(ServiceError):
    """A picture that is given by what is no data URL."""


class LimitError(ServiceError):
    """Larger or more than the service takes. `param` is the field."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class BusyError(ServiceError):
    """As many requests wait as may; `seconds` from now it may be otherwise."""

    def __init__(self, message: str, seconds: int) -> None:
        super().__init__(message)
        self.seconds = seconds


class LeavingError(BusyError):
    """The service is about to end, or has not begun."""


class LateError(ServiceError):
    """The request took longer than a request may."""


class InternalError(ServiceError):
    """A fault of our own; what it was stands in the log."""
