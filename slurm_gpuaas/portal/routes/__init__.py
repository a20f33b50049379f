"""The portal's own parts: signing in, home, one's account, people, audit, the API's description."""

from typing import Final

from slurm_gpuaas.portal.routes.account import ACCOUNT
from slurm_gpuaas.portal.routes.audit import AUDIT
from slurm_gpuaas.portal.routes.home import HOME
from slurm_gpuaas.portal.routes.people import PEOPLE
from slurm_gpuaas.portal.routes.reference import REFERENCE
from slurm_gpuaas.portal.routes.sign_in import SIGN_IN

FEATURES: Final = (SIGN_IN, HOME, ACCOUNT, PEOPLE, AUDIT, REFERENCE)
