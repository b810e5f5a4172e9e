"""Whether an address answers: asked before a job counts on a download. Standard library only.

It goes through the proxies that the download itself goes through, and reads no body.
"""

import urllib.error
import urllib.request

PATIENCE_S = 5.0
AGENT = "gpt2-ablations"


def why_not(url: str, patience_s: float = PATIENCE_S) -> str | None:
    """What keeps the file at `url` from being had now; null where its server would send it."""
    request = urllib.request.Request(url, headers={"User-Agent": AGENT})
    try:
        with urllib.request.urlopen(request, timeout=patience_s):
            return None
    except urllib.error.HTTPError as error:
        with error:
            return f"HTTP {error.code} {error.reason}"
    except urllib.error.URLError as error:
        return f"no connection ({error.reason})"
    except OSError as error:
        return f"no connection ({error})"
