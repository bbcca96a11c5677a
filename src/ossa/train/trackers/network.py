"""Whether there is a network, found out before a tracker's own library waits for it."""

import ssl
import threading
from urllib.error import HTTPError
from urllib.request import Request, urlopen

_SECONDS = 3.0


def answers(url: str, *, seconds: float = _SECONDS) -> bool:
    """Whether a server answers at `url` within so many seconds, through the environment's proxies.

    An answer of a proxy that reaches no server (502 and the like) is none.
    """
    answered: list[str] = []
    # Looking up a name has no time limit of its own, so the whole question gets a thread.
    asking = threading.Thread(target=_ask, args=(url, seconds, answered), daemon=True)
    asking.start()
    asking.join(seconds)
    return bool(answered)


def _ask(url: str, seconds: float, answered: list[str]) -> None:
    # No secret is sent and nothing of the answer is read, so any certificate will do here: some
    # servers have one of their own, which the tracker's library is told to trust.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with urlopen(Request(url, method="HEAD"), timeout=seconds, context=context):
            answered.append(url)
    except HTTPError as refusal:
        if refusal.code < 500:
            answered.append(url)
    except Exception:  # no network, no such host, not a URL: whichever, it is no answer
        return
