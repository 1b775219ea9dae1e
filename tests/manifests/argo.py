"""What Argo 4.0 makes of a failed node: the merged retry strategy, and whether it starts it again.

Only the part of its expression language that our policy uses is read here.
"""

POLICIES = {"OnError": {"Error"}, "OnFailure": {"Failed"}, "Always": {"Error", "Failed"}}
EXPRESSION = 'lastRetry.status == "Error" || asInt(lastRetry.exitCode) > 0'


def merged(default, own):
    """A default under a template's own settings: objects are merged, everything else replaced."""
    if not isinstance(default, dict) or not isinstance(own, dict):
        return own
    both = {key: merged(default[key], own[key]) for key in default.keys() & own.keys()}
    return {**default, **own, **both}


def template(policy):
    """The retry strategy that KFP writes into a template of a task: it names no policy."""
    if not policy:
        return {}
    return {
        "limit": str(policy["maxRetryCount"]),
        "backoff": {
            "duration": policy["backoffDuration"],
            "factor": str(policy["backoffFactor"]),
            "maxDuration": policy["backoffMaxDuration"],
        },
    }


def is_started_again(strategy, *, status, exit_code, attempts, seconds):
    """Whether a node is, after so many attempts and seconds since the first of them began."""
    if not strategy or attempts > int(strategy["limit"]):
        return False
    window = strategy.get("backoff", {}).get("maxDuration")
    if window is not None and seconds > int(window.removesuffix("s")):
        return False
    expression = strategy.get("expression")
    if status not in POLICIES[strategy.get("retryPolicy", "OnFailure")]:
        return False
    assert expression in (None, EXPRESSION)
    return expression is None or status == "Error" or exit_code > 0
