"""HTTP on a node: the store, its operators' view and actions, metrics.

`requests` and `replies` are pure: what came over the wire into values, and back. `door` is the edge
that every request passes: limits, origin, errors, measures. `app` puts FastAPI behind it, for
everything but the hot routes of single keys.
"""
