"""Whether a server responds, checked before a job needs a download. Standard library only.

Uses the same proxies as the download, and reads no body.
"""

import urllib.error
import urllib.request

WAIT_S = 5.0
AGENT = "gpt2-ablations"


def why_not(url: str, wait_s: float = WAIT_S) -> str | None:
    """The reason why `url` cannot be downloaded now; null where it can."""
    request = urllib.request.Request(url, headers={"User-Agent": AGENT})
    try:
        with urllib.request.urlopen(request, timeout=wait_s):
            return None
    except urllib.error.HTTPError as error:
        with error:
            return f"HTTP {error.code} {error.reason}"
    except urllib.error.URLError as error:
        return f"no connection ({error.reason})"
    except OSError as error:
        return f"no connection ({error})"
