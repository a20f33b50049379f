"""Which nodes share an NVLink domain, from what each of their GPUs says it has registered with. Pure.

A domain spans nodes on racks such as GB200 NVL72 only. Its clique id alone is not unique (NVIDIA/nccl issue 1301), so
the cluster's UUID is part of its name. What a GPU says is valid only when registration is complete and succeeded. An
H100 says so with a UUID of zeros, which is no domain (meta-pytorch/torchcomms pull requests 936 and 1385).
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import Final

from slurm_gpuaas.domain.names import NodeName
from slurm_gpuaas.domain.policy import fold_nodes
from slurm_gpuaas.domain.words import plural
from slurm_gpuaas.topology.discovery import known_as
from slurm_gpuaas.topology.fabric import Fabric, Fault, Finding, NvlinkDomain, natural

LONGEST_LINE: Final = 300
COMPLETED: Final = "Completed"
SUCCESS: Final = "Success"
"""nvidia-smi's words for NVML_GPU_FABRIC_STATE_COMPLETED and NVML_SUCCESS."""
UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
NOTHING: Final = re.compile(r"\[?(?:N/A|Not Supported)")
HEADER: Final = "fabric."
"""Without `noheader`, nvidia-smi's first line: `fabric.clusterUuid, fabric.cliqueId`."""
LINE: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,63}):?\s+(\S.*)")


def domain_of(cluster_uuid: str, clique: str = "", state: str = COMPLETED, status: str = SUCCESS) -> str | None:
    """`UUID.CLIQUE`, or None where the GPU is in no NVLink domain; in the words of nvidia-smi."""
    if state != COMPLETED or status != SUCCESS or not UUID.fullmatch(cluster_uuid):
        return None
    if not clique.isdecimal() or len(clique) > 10 or not cluster_uuid.strip("0-"):
        return None
    return f"{cluster_uuid.lower()}.{int(clique)}"


def add(fabric: Fabric, text: str) -> Fabric:
    """The fabric with the NVLink domains of its nodes. Linear in the text.

    Args:
        text: a line for each GPU: node, cluster UUID, clique, and optionally state and status, as nvidia-smi prints
            them (`b200-001: 9c6f5af3-..., 4026, Completed, Success`). Other hosts are left out.
    """
    nodes = fabric.arrays.index
    domains: dict[NodeName, Counter[str | None]] = defaultdict(Counter)
    strange = 0
    for raw in text.split("\n"):
        line = raw[:LONGEST_LINE].strip()
        if not line:
            continue
        found = LINE.fullmatch(line)
        told = found[2] if found else ""
        fields = [field.strip() for field in (told.split(",") if "," in told else told.split())]
        if found is None or not (NOTHING.match(told) or (UUID.fullmatch(fields[0]) and len(fields) > 1)):
            strange += not told.startswith(HEADER)
        elif node := known_as(NodeName(found[1]), nodes.keys()):
            domains[node][domain_of(*fields[:4])] += 1
    findings = list(fabric.findings)
    if strange:
        says = f"{plural(strange, 'line')} about NVLink domains not understood."
        findings.append(Finding(fault=Fault.STRANGE_TEXT, says=says))
    members: dict[str, list[NodeName]] = defaultdict(list)
    for node, counts in sorted(domains.items(), key=lambda item: natural(item[0])):
        domain, gpus = max(counts.items(), key=lambda item: (item[0] is not None, item[1], item[0] or ""))
        if domain is None:
            continue
        members[domain].append(node)
        if gpus < counts.total():
            says = f"{gpus} of the {counts.total()} GPUs of {node} are in its NVLink domain."
            findings.append(Finding(fault=Fault.NVLINK_DOWN, says=says, nodes=node, devices=(domain,)))
    known = tuple(NvlinkDomain(name=name, nodes=fold_nodes(names)) for name, names in members.items())
    return fabric.model_copy(update={"nvlink_domains": known, "findings": tuple(findings)})
