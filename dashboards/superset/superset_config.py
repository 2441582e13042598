"""Settings of the Superset that run.sh starts: for one person on this machine, with what run.sh generated."""

import os

HOME = os.environ["SUPERSET_HOME"]
with open(os.path.join(HOME, "secret")) as secret:
    SECRET_KEY = secret.read().strip()
SQLALCHEMY_DATABASE_URI = "sqlite:///" + os.path.join(HOME, "superset.db")

# Datasets over metric functions ask which account the dashboard's filter has chosen.
FEATURE_FLAGS = {"ENABLE_TEMPLATE_PROCESSING": True}
# Events go on coming in: what was asked a minute ago may be wrong.
DATA_CACHE_CONFIG = {"CACHE_TYPE": "NullCache"}
FILTER_STATE_CACHE_CONFIG = {"CACHE_TYPE": "SimpleCache"}
EXPLORE_FORM_DATA_CACHE_CONFIG = {"CACHE_TYPE": "SimpleCache"}
# One process that listens on 127.0.0.1 has nobody to share counters with.
RATELIMIT_ENABLED = False
# Its pages load a picture from a server that counts installations, and maps from others: browsers are told to ask this machine alone.
TALISMAN_ENABLED = True
TALISMAN_CONFIG = {
    "content_security_policy": {
        "base-uri": ["'self'"],
        "default-src": ["'self'"],
        "img-src": ["'self'", "blob:", "data:"],
        "worker-src": ["'self'", "blob:"],
        "connect-src": ["'self'"],
        "object-src": "'none'",
        "style-src": ["'self'", "'unsafe-inline'"],
        "font-src": ["'self'"],
        "script-src": ["'self'", "'strict-dynamic'"],
    },
    "content_security_policy_nonce_in": ["script-src"],
    "force_https": False,
    "session_cookie_secure": False,
}
