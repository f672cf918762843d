"""What a Python of ours needs of the environment to find the packages that we were found in.

Children get no environment of ours, since it may name secrets; but what was
installed by `pip install --user` is found by the home directory only.
"""

import site
import sys


def package_variables() -> dict[str, str]:
    """Return the variables for a child that runs `sys.executable`: none in a virtual one."""
    if site.ENABLE_USER_SITE and site.getusersitepackages() in sys.path:
        return {"PYTHONUSERBASE": site.getuserbase()}
    return {}
