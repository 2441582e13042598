"""Makes or renews Superset's own database, its administrator, and the dashboard from assets/. Started by run.sh."""

import os
import sys
from pathlib import Path

from superset.app import create_app

app = create_app()
home, sockets, port = Path(os.environ["SUPERSET_HOME"]), sys.argv[1], sys.argv[2]


def contents():
    """The YAML files by their path, with the place of the demo's server."""
    root = Path(__file__).parent / "assets"
    files = {str(path.relative_to(root)): path.read_text() for path in root.rglob("*.yaml")}
    database = "databases/pg_tally.yaml"
    files[database] = files[database].replace("SOCKETS", sockets).replace("PORT", port)
    return files


with app.app_context():
    from flask import g
    from flask_migrate import upgrade
    from superset import appbuilder, security_manager
    from superset.commands.importers.v1.assets import ImportAssetsCommand

    upgrade(directory=str(Path(sys.modules["superset"].__file__).parent / "migrations"))
    if not security_manager.find_user("admin"):
        appbuilder.add_permissions(update_perms=True)
        security_manager.sync_role_definitions()
        password = (home / "password").read_text().strip()
        admin = security_manager.find_role("Admin")
        security_manager.add_user("admin", "Demo", "Admin", "admin@localhost", admin, password=password)
    g.user = security_manager.find_user("admin")
    ImportAssetsCommand(contents()).run()
