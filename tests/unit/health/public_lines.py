"""Lines of kernel logs that people published, where each was found, and what must be among its fields.

Sources: OGK NVIDIA/open-gpu-kernel-modules (comments of its code, issues by number), NVS NVIDIA/NVSentinel
health-monitors/syslog-health-monitor, gpud leptonai/gpud components/accelerator/nvidia, gcm facebookresearch/gcm, imbue
imbue-ai/cluster-health, and the others by their address. `search` is public code found by its text alone.
"""

# ruff: noqa: E501 - lines stay as they were published

from __future__ import annotations

from typing import Final, NamedTuple

from slurm_gpuaas.health.catalogue import Product

H200, B200 = Product.H200, Product.B200

FELL_OFF: Final = "NVRM: Xid (PCI:0000:05:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."
REBOOT: Final = (
    "NVRM: Xid (PCI:0009:01:00): 154, GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)"
)
FORUM: Final = "forums.developer.nvidia.com/t/47210"


class Public(NamedTuple):
    source: str
    line: str
    expected: dict[str, object]
    product: Product | None = None
    driver: int | None = None


def nvlink5(unit: str, words: str, code: int, pci: str = "0000:04:00", severity: str = "Nonfatal") -> str:
    return f"NVRM: Xid (PCI:{pci}): {code}, {unit} {severity} XC0 i0 Link 00 ({words} 0x00000000 0x00000000)"


EVENTS: Final = [
    # prefixes and addresses
    *(
        Public("journalctl", f"{moment} node7 kernel: {FELL_OFF}", {"code": 79})
        for moment in (
            "Nov 22 18:29:55.123456",
            "Sun 2026-11-22 18:29:55 KST",
            "2026-11-22 18:29:55",
            "2026-11-22T18:29:55+0900",
            "1795339795.123456",
            "[ 1234.567890]",
        )
    ),
    Public("gpud", "[...] NVRM: Xid (0000:03:00): 14, Channel 00000001", {"code": 14, "pci": "0000:03:00"}),
    Public("gpud", f"[111111111.111] {FELL_OFF}", {"code": 79, "pid": None, "process": None, "drain": "now"}),
    Public(
        FORUM, "[155044.078590] NVRM: Xid (PCI:0000:06:00): 79, GPU has fallen off the bus.", {"class": "hw_reboot"}
    ),
    Public(
        "OGK #461",
        "NVRM: Xid (PCI:0004:01:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
        {"pci": "0004:01:00", "immediate_action": "RESTART_BM", "investigatory_action": "CONTACT_SUPPORT"},
    ),
    Public(
        "bbs.archlinux.org 283219",
        "Feb 01 14:25:31 archbox kernel: NVRM: Xid (PCI:0000:01:00): 38, pid=1659,",
        {"code": 38, "pid": 1659, "process": None, "class": "info", "drain": "no"},
    ),
    Public(
        "pastebin.com/NGng33SB",
        "Nov 22 18:29:55 hostname kernel: [ 966.503025] NVRM: Xid (0000:01:00): 31, Ch 0000000b, engmask 00000120",
        {"code": 31, "pci": "0000:01:00", "class": "app", "drain": "no"},
    ),
    Public(
        "pastebin.com/gn6mYmM4",
        "May  6 00:38:27 alex kernel: [ 4909.922970] NVRM: Xid (0000:01:00): 13, 0005 00000000 0000502d 00000104",
        {"code": 13, "pid": None, "unit": None},
    ),
    Public(
        "OGK #1030",
        "[ 130.456250] [ T1946] NVRM: Xid (PCI:0000:2b:00): 31, pid=1942, name=llama-bench, channel 0x00000002, intr"
        " 00000000. MMU Fault: ENGINE GRAPHICS GPC6 GPCCLIENT_T1_13 faulted @ 0x6f6f_320c2000. Fault is of type FAULT_PDE"
        " ACCESS_TYPE_VIRT_READ",
        {"pid": 1942, "process": "llama-bench", "unit": None, "investigatory_action": "WORKFLOW_XID_31"},
    ),
    Public(
        "OGK #1030",
        "NVRM: Xid (PCI:0000:2d:00): 31, pid=970, Ch 00000023, intr 00000000. MMU Fault: ENGINE GRAPHICS GPCCLIENT_RAST",
        {"pid": 970, "process": None},
    ),
    Public(
        "gcm",
        "[Fri Oct 14 14:56:49 2022] NVRM: Xid (PCI:000d:00:00): 31, pid=3234, Graphics SM Warp Exception on (GPC 2, TPC 2,"
        " SM 1): Out Of Range Address",
        {"pci": "000d:00:00", "unit": {"gpc": 2, "tpc": 2, "sm": 1}},
    ),
    Public(
        "search",
        "4,1,1,-;NVRM: Xid (PCI:0000:1a:00): 8, pid=1",
        {"code": 8, "pid": 1, "immediate_action": "RESTART_APP"},
    ),
    Public(
        "search",
        "Nov 22 14:56:44 cctvserver-MS-7B17 kernel: [94555.573310] NVRM: Xid (PCI:0000:02:00): 62, pid=1300, 203c(3090)",
        {"code": 62, "pid": 1300, "class": "hw_reset", "drain": "now"},
    ),
    Public(
        "search",
        "Nov 07 18:17:15 server kernel: NVRM: Xid (PCI:0000:01:00): 44, pid=12348, name=tf_cnn_benchmar, Ch 00000008, intr",
        {"code": 44, "process": "tf_cnn_benchmar", "class": "info"},
    ),
    Public(
        "search",
        "Sep 09 12:24:31 nixos kernel: NVRM: Xid (PCI:0000:01:00): 8, pid=4270, name=wezterm-gui, Channel 00000028",
        {"code": 8, "process": "wezterm-gui"},
    ),
    Public(
        "search",
        "NVRM: Xid (PCI:0000:01:00): 16, pid='<unknown>', name=<unknown>, Head 00000003 Count 0023070b",
        {"code": 16, "class": "unknown", "drain": "review"},
    ),
    # errors of the application
    Public(
        FORUM,
        "NVRM: Xid (PCI:0000:01:00): 13, Graphics SM Warp Exception on (GPC 1, TPC 0): Out Of Range Address",
        {"unit": {"gpc": 1, "tpc": 0, "sm": None}, "investigatory_action": "WORKFLOW_XID_13"},
    ),
    Public(
        "NVS",
        "NVRM: Xid (PCI:0000:b5:00): 13, pid='<unknown>', name=<unknown>, Graphics SM Warp Exception on (GPC 1, TPC 3, SM"
        " 0): Out Of Range Address",
        {
            "unit": {"gpc": 1, "tpc": 3, "sm": 0},
            "mnemonic": "ROBUST_CHANNEL_GR_EXCEPTION / ROBUST_CHANNEL_GR_ERROR_SW_NOTIFY",
        },
    ),
    Public(
        "NVS",
        "NVRM: Xid (PCI:0000:b5:00): 13, pid='<unknown>', name=<unknown>, Graphics Exception: ESR 0x50df30=0x107000e",
        {"unit": None, "class": "app"},
    ),
    Public(
        "NVS",
        "NVRM: Xid (PCI:0002:00:00): 13, pid=2519562, name=python3, Graphics Exception: ChID 000c, Class 0000cbc0",
        {"pid": 2519562, "process": "python3"},
    ),
    Public(
        "gpud #46",
        "[Fri Aug 30 11:43:09 2024] NVRM: Xid (PCI:0000:cb:00): 13, pid='<unknown>', name=<unknown>, Graphics SM Global"
        " Exception on (GPC 7, TPC 7, SM 0): Multiple Warp Errors",
        {"unit": {"gpc": 7, "tpc": 7, "sm": 0}},
    ),
    Public(
        "NVS",
        "NVRM: Xid (PCI:0000:66:00): 32, pid=2280636, name=train.3, Channel ID 0000000d intr0 00040000",
        {"code": 32, "process": "train.3", "class": "app"},
    ),
    Public(
        "NVS",
        "NVRM: Xid (PCI:0001:ab:cd): 69, pid=1310987, name=train.3, Class Error: ChId 0008, Class 0000cbc0",
        {"code": 69, "pci": "0001:ab:cd", "drain": "no"},
    ),
    Public(
        "NVS", "NVRM: Xid (PCI:0000:9b:00): 8, pid=5678, name=idle_timeout", {"process": "idle_timeout", "pid": 5678}
    ),
    Public(FORUM, "NVRM: Xid (PCI:0000:01:00): 43, Ch 00000020, engmask 00000101", {"class": "info", "drain": "no"}),
    Public(
        "gpud",
        "NVRM: Xid (PCI:0000:38:00): 43, pid=2924364, name=pt_main_thread, Ch 00000008",
        {"process": "pt_main_thread"},
    ),
    Public("gpud", "NVRM: Xid (PCI:0000:01:00): 31, pid=XXX", {"pid": None}),
    Public(
        "gpud", "NVRM: Xid (PCI:0000:01:00): 102, unknown error", {"code": 102, "class": "app", "drain": "no"}, H200
    ),
    # what follows another error
    Public(
        "OGK #1150",
        "kernel: NVRM: Xid (PCI:0000:dc:00): 45, pid=1818990, name=python3, Ch 00000001 caused by previous Xid 149",
        {"caused_by": 149, "class": "sympathetic", "drain": "no", "immediate_action": "WORKFLOW_XID_45"},
    ),
    Public(
        "OGK #1150",
        "kernel: NVRM: Xid (PCI:0000:ba:00): 45, pid=1818989, name=python3, Ch 00000002 caused by previous Xid 145",
        {"caused_by": 145},
    ),
    # memory
    Public(
        "NVIDIA/gpu-operator #1146",
        "NVRM: Xid (PCI:0000:8a:00): 48, An uncorrectable double bit error (DBE) has been detected on GPU in the framebuffer"
        " at partition 4, subpartition 1",
        {"code": 48, "class": "hw_reset", "drain": "now", "immediate_action": "WORKFLOW_XID_48"},
    ),
    Public(
        "NVS",
        "NVRM: Xid (PCI:0000:03:00): 48, pid=91237, name=nv-hostengine, Ch 00000076, errorString CTX SWITCH TIMEOUT",
        {"process": "nv-hostengine", "drain": "now"},
    ),
    Public(
        "gcm",
        "[Fri Oct 14 14:56:49 2022] NVRM: Xid (PCI:000d:00:00): 48, pid=3234, Graphics SM Global Exception on (GPC 2, TPC"
        " 2, SM 1): Multiple Warp Errors",
        {"code": 48, "unit": {"gpc": 2, "tpc": 2, "sm": 1}},
    ),
    Public(
        "stas00/ml-engineering",
        "NVRM: Xid (PCI:0000:10:1c): 63, pid=1896, Row Remapper: New row marked for remapping, reset gpu to activate.",
        {"pci": "0000:10:1c", "class": "info", "drain": "when_idle", "immediate_action": "IGNORE"},
    ),
    Public("gpud", "NVRM: Xid (PCI:0000:01:00): 63, Row remapping pending", {"drain": "when_idle"}),
    Public(
        "imbue",
        "[2397166.923949] NVRM: Xid (PCI:0000:0f:00): 64, pid='<unknown>', name=<unknown>, Row Remapper Error:"
        " (0x00000002eebc4100) - All reserved rows for bank are remapped",
        {"class": "hw_support", "drain": "now"},
    ),
    Public(
        "imbue",
        "[2397166.983093] NVRM: Xid (PCI:0000:0f:00): 94, pid=2503421, name=python3, Ch 00000008",
        {"class": "contained", "drain": "when_idle", "pid": 2503421},
    ),
    Public(
        "OGK kern_gpu_error_cont_ga100.c",
        "NVRM: Xid (PCI:0000:01:00 GPU-I:05): 94, pid=7194, Contained: CE User Channel (0x9). RST: No, D-RST: No",
        {"pci": "0000:01:00", "pid": 7194, "class": "contained"},
    ),
    Public(
        "OGK kernel_rc.c",
        "NVRM: Xid (PCI:0000:07:00 GPU-I:01 GPU-CI:00): 43, pid=7, name=a, Ch 00000008",
        {"pci": "0000:07:00", "code": 43, "process": "a"},
    ),
    Public(
        "OGK kern_gpu_error_cont_ga100.c",
        "NVRM: Xid (PCI:0000:01:00): 95, pid=7062, Uncontained: LTC TAG (0x2, 0x1). RST: Yes, D-RST: No",
        {"class": "hw_reset", "drain": "now", "investigatory_action": "IGNORE (sympathetic)"},
    ),
    Public(
        "OGK kern_gpu_tu102.c",
        "NVRM: Xid (PCI:0000:01:00): 140, An uncorrectable ECC error detected (possible firmware handling failure) DRAM:1,"
        " LTC:0, MMU:0, PCIE:0",
        {"class": "hw_reset", "drain": "now"},
    ),
    Public(
        "search",
        "NVRM: Xid (PCI:0000:01:00): 171, GDDR, Uncorrectable DRAM error in FBPA 3 subpartition 0 physAddr 0xe9b9107e0",
        {"class": "sympathetic", "drain": "no", "immediate_action": None},
    ),
    Public(
        "OGK kernel_gsp_ecc_gb100.c",
        "NVRM: Xid (PCI:0000:01:00): 172, GSP-RISCV, Uncorrectable SRAM error",
        {"class": "sympathetic", "mnemonic": "UNCORRECTABLE_SRAM_ERROR"},
    ),
    # the chip stopped
    Public("NVS", "NVRM: Xid (PCI:0000:3f:00): 46", {"class": "hw_reset", "drain": "now", "pid": None}),
    Public(
        "gpud #46",
        "[Fri Aug 30 11:43:14 2024] NVRM: Xid (PCI:0000:cb:00): 109, pid=1797828, name=pt_main_thread, Ch 00000008,"
        " errorString CTX SWITCH TIMEOUT, Info 0x58005",
        {"class": "hw_reset", "drain": "now"},
    ),
    Public(
        "OGK kern_gpu_gh100.c", "NVRM: Xid (PCI:0000:01:00): 110, SEC_FAULT: _IFF_POS value: 0x4", {"class": "hw_reset"}
    ),
    Public(
        "OGK #461",
        "NVRM: Xid (PCI:0004:01:00): 119, pid=430, name=nv_queue, Timeout waiting for RPC from GSP!",
        {"process": "nv_queue", "drain": "now", "investigatory_action": "INVESTIGATE_SW"},
    ),
    Public(
        "NVS",
        "NVRM: Xid (PCI:0000:17:00): 119, pid=15822502, name=nvc:[driver], Timeout after 6s of waiting for RPC response from"
        " GPU0 GSP! Expected function 76 (GSP_RM_CONTROL) (0x20802a02 0x8).",
        {"process": "nvc:[driver]", "pid": 15822502},
    ),
    Public(
        "search",
        "NVRM: Xid (PCI:000f:01:00): 120, pid=2702, name=Xorg, GSP task exception: supervisor timer interrupt (cause:0x8)",
        {"class": "hw_reset", "pci": "000f:01:00"},
    ),
    Public("NVS", "NVRM: Xid (PCI:0000:66:00): 999, pid=1234, name=test", {"class": "unknown", "drain": "review"}),
    Public("gpud", "NVRM: Xid (PCI:0000:05:00): 99999, unknown error", {"mnemonic": None, "immediate_action": None}),
    # fell off the bus without an XID
    Public("gpud", "NVRM: GPU 0000:29:00.0: GPU has fallen off the bus.", {"kind": "fallen", "pci": "0000:29:00"}),
    Public(
        "gpud", "NVRM: GPU 18:00.0: GPU has fallen off the bus.", {"kind": "fallen", "code": 79, "pci": "0000:18:00"}
    ),
    Public(
        FORUM,
        "NVRM: GPU at 0000:02:00.0 has fallen off the bus.",
        {"kind": "fallen", "pci": "0000:02:00", "drain": "now"},
    ),
    # the driver's recovery action
    Public(
        "gpud",
        "[171167.621162] NVRM: Xid (PCI:0009:01:00): 154, GPU recovery action changed from 0x0 (None) to 0x4 (Drain and Reset)",
        {"from_action": "None", "to_action": "Drain and Reset", "class": "follow_154", "drain": "when_idle"},
    ),
    Public(
        "gpud",
        "[171168.537473] NVRM: Xid (PCI:0018:01:00): 154, GPU recovery action changed from 0x4 (Drain and Reset) to 0x1 (GPU"
        " Reset Required)",
        {"from_action": "Drain and Reset", "to_action": "GPU Reset Required", "drain": "now"},
    ),
    Public("NVS", REBOOT, {"to_action": "Node Reboot Required", "drain": "now", "immediate_action": "XID_154"}),
    Public("OGK gpu.c", REBOOT.replace("0x2 (Node Reboot Required)", "0x0 (None)"), {"drain": "no"}),
    Public("OGK gpu.c", REBOOT.replace("0x2 (Node Reboot Required)", "0x3 (Drain P2P)"), {"drain": "when_idle"}),
    Public("OGK gpu.c", REBOOT.replace("0x2 (Node Reboot Required)", "0x5 (Recover IMEX Domain)"), {"drain": "review"}),
    Public("OGK gpu.c", REBOOT.replace("0x2 (Node Reboot Required)", "0x6 (Unknown)"), {"drain": "review"}),
    Public("NVS", "NVRM: Xid (PCI:0000:01:00): 154 (", {"to_action": None, "class": "follow_154", "drain": "review"}),
    # NVLink 4
    Public(
        "NVS",
        "NVRM: Xid (PCI:0003:00:00): 74, pid='<unknown>', name=<unknown>, NVLink: fatal error detected on link 14(0x0, 0x0,"
        " 0x10000, 0x0, 0x0, 0x0, 0x0)",
        {"link": 14, "class": "nvlink", "drain": "review", "immediate_action": "WORKFLOW_NVLINK_ERR"},
        H200,
    ),
    Public(
        "forums.developer.nvidia.com/t/292539",
        "kernel: NVRM: Xid (PCI:0000:c1:00): 74, pid='<unknown>', name=<unknown>, NVLink: fatal error detected on link 1",
        {"link": 1, "class": "nvlink", "drain": "review"},
    ),
    Public(
        "OGK kernel_nvlinkcorelibtrain.c",
        "NVRM: Xid (PCI:0000:c1:00): 74, pid=12, name=x, NVLink: failed to train link 3 to remote PCI:0000:05:00",
        {"link": 3, "drain": "review"},
    ),
    Public(
        "NVS",
        "NVRM: Xid (PCI:0003:00:00): 74, pid=1, name=a, NVLink: fatal error detected on link 14(0x0, 0x0, 0x10000, 0x0, 0x0,"
        " 0x0, 0x0)",
        {"class": "unknown", "drain": "review"},
        B200,
    ),
    Public(
        "OGK kernel_nvlink_gh100.c",
        "NVRM: Xid (PCI:0000:c1:00): 136, NVLink: Link training failed for link 5(0x1, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0)",
        {"link": 5, "class": "hw_reset", "drain": "now"},
        H200,
    ),
    Public(
        "OGK kernel_nvlink_gb100.c",
        "NVRM: Xid (PCI:0000:c1:00): 136, NVLink: Link training failed for links 0x20(0x1, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0)",
        {"link": None, "class": "unknown", "drain": "review"},
        B200,
    ),
    # NVLink 5, layout before R575
    Public(
        "NVS",
        "NVRM: Xid (PCI:0018:01:00): 149, NETIR_LINK_EVT  Fatal   XC0 i0 Link 09 (0x025525c6 0x00000000 0x00000000)",
        {
            **{"link": 9, "subcode": "NETIR_LINK_EVT", "class": "hw_reset", "drain": "now"},
            **{"immediate_action": "RESET_GPU", "investigatory_action": "INVESTIGATE_PEER_DEVICE"},
        },
        B200,
        570,
    ),
    Public(
        "gpud",
        "[171167.620236] NVRM: Xid (PCI:0009:01:00): 149, NETIR_LINK_EVT  Fatal   XC0 i0 Link 01 (0x021425c6 0x00000000)",
        {"investigatory_action": "INVESTIGATE_PEER_DEVICE", "drain": "now"},
    ),
    Public(
        "gpud",
        "NVRM: Xid (PCI:0008:01:00): 149, NETIR_LINK_EVT Fatal XC0 i0 Link 08 (0x004505c6 0x00000000 0x00000000)",
        {"investigatory_action": "INVESTIGATE_LINK_SI", "drain": "now"},
    ),
    Public(
        "gpud",
        "NVRM: Xid (PCI:0000:00:00): 149, NETIR_LINK_EVT Fatal XC0 i0 Link 00 (0x026001c6 0x00000000 0x00000000)",
        {"immediate_action": "IGNORE", "class": "info", "drain": "no"},
    ),
    Public(
        "gpud",
        "NVRM: Xid (PCI:0008:01:00): 149, NETIR Fatal XC0 i0 Link -1 (0x000fe406 0x00000000 0x00000000 0x00000000)",
        {"link": -1, "subcode": "NETIR", "immediate_action": "RESET_GPU", "drain": "now"},
    ),
    Public(
        "gpud",
        "NVRM: Xid (PCI:0018:01:00): 149, NETIR Fatal XC0 i0 Link -1 (0x000fe406",
        {"subcode": "NETIR", "class": "unknown", "drain": "review", "immediate_action": "WORKFLOW_NVLINK5_ERR"},
    ),
    Public(
        "gpud",
        "NVRM: Xid (PCI:0008:01:00): 149, NETIR_BER_EVENT Nonfatal XC0 i0 Link 01 (0x00082226 0x00000001 0x00000000)",
        {"immediate_action": "IGNORE", "investigatory_action": "INVESTIGATE_LINK_SI_AND_CABLES", "drain": "no"},
    ),
    Public(
        "gpud",
        "NVRM: Xid (PCI:0018:01:00): 145, pid=876767, name=ray::WorkerDict, RLW_RXPIPE Nonfatal XC0 i0 Link 13 (0x0409a0c2"
        " 0x00000008 0x00000001 0x00000000 0x00100000 0x00000004)",
        {"pid": 876767, "process": "ray::WorkerDict", "subcode": "RLW_RXPIPE", "link": 13, "drain": "no"},
    ),
    Public(
        "gpud",
        "NVRM: Xid (PCI:0008:01:00): 145, pid=11436, name=cache_mgr_main, RLW_SRC_TRACK Nonfatal XC1 i0 Link 03 (0x040868e2"
        " 0x00000008 0x00000000 0x00000000 0x00000000 0x00000000)",
        {"immediate_action": "XID_154_EVAL", "class": "follow_154", "drain": "no"},
    ),
    Public(
        "NVS",
        "NVRM: Xid (PCI:0000:00:08.0): 145, RLW_REMAP Nonfatal XC1 i0 Link 10 (0x00000082 0x00000040 0x00000000)",
        {"pci": "0000:00:08", "immediate_action": "RESET_GPU", "drain": "now"},
        B200,
        570,
    ),
    Public(
        "NVS",
        "NVRM: Xid (PCI:0000:00:08.0): 145, RLW_REMAP Nonfatal XC1 i0 Link 10 (0x00000082 0x00000040 0x00000000)",
        {"class": "unknown", "drain": "review"},
        B200,
        580,
    ),
    Public(
        "NVS",
        "NVRM: Xid (PCI:0000:00:08.0): 145, RLW_REMAP Nonfatal XC1 i0 Link 10 (0x00000004 0x00000040 0x00000000)",
        {"immediate_action": "RESET_GPU", "drain": "now"},
        B200,
        580,
    ),
    Public(
        "NVIDIA/TensorRT-LLM #4816",
        "NVRM: Xid (PCI:0000:5f:00): 145, RLW_REMAP Nonfatal XC0 i0 Link 02",
        {"subcode": "RLW_REMAP", "link": 2, "drain": "review"},
        B200,
    ),
    # NVLink 5, layout from R575
    Public("gpud", nvlink5("SAW_MVB", "0x00000001 0x00000001", 144), {"drain": "no", "class": "info"}),
    Public("gpud", nvlink5("SAW_MVB", "0x00000001 0x00000002", 144), {"drain": "now", "class": "hw_reset"}),
    Public("gpud", nvlink5("SAW_MVB", "0x00000003 0x80000000", 144), {"drain": "review", "class": "unknown"}),
    Public("gpud", nvlink5("SAW_EGR", "0x00000004 0x00000001", 144), {"drain": "review", "subcode": "SAW_EGR"}),
    Public("gpud", nvlink5("RLW_CTRL", "0x00000003 0x80000000", 145), {"drain": "no"}, B200, 580),
    Public("gpud", nvlink5("RLW_REMAP", "0x00000004 0x00000001", 145), {"immediate_action": "XID_154_EVAL"}, B200, 580),
    Public("gpud", nvlink5("RLW_RSPCOL", "0x00000005 0x00000002", 145), {"drain": "now"}, B200, 580),
    Public("gpud", nvlink5("RLW_TAGSTATE", "0x00000008 0x00000001", 145), {"drain": "no"}, B200, 580),
    Public("gpud", nvlink5("TLW_CTRL", "0x00000009 0x00000004", 146), {"drain": "now"}, B200, 580),
    Public(
        "gpud",
        nvlink5("TLW_RX/TLW_RX_PIPE0", "0x0000000a 0x00000004", 146),
        {"subcode": "TLW_RX/TLW_RX_PIPE0", "link": 0, "drain": "now"},
    ),
    Public("gpud", nvlink5("TLW_TX/TLW_TX_PIPE1", "0x0000000d 0x00000001", 146), {"drain": "no"}, B200, 580),
    Public("gpud", nvlink5("TREX", "0x0000000e 0x00000001", 147), {"drain": "no"}, B200, 580),
    Public("gpud", nvlink5("NVLPW_CTRL/NVLPW", "0x0000000f 0x80000000", 148), {"drain": "no"}, B200, 580),
    Public("gpud", nvlink5("NETIR/NETIR_INT", "0x00000018 0x00000000", 149), {"drain": "now"}, B200, 580),
    Public("gpud", nvlink5("NETIR_MFDE_EVENT", "0x00000014 0x00000003", 149), {"drain": "no"}, B200, 580),
    Public("gpud", nvlink5("MSE_WATCHDOG", "0x00000000 0x00000000", 150, severity="Fatal"), {"drain": "now"}, B200),
    Public("gpud", nvlink5("SAW_MVB", "0x00000001 0x00000002", 144), {"drain": "review", "class": "unknown"}, H200),
    # switches
    Public(
        "gpud",
        "[111111111.111] nvidia-nvswitch3: SXid (PCI:0000:05:00.0): 12028, Non-fatal, Link 32 egress non-posted PRIV error"
        " (First)",
        {"kind": "sxid", "switch": 3, "link": 32, "pci": "0000:05:00", "class": "sxid_nonfatal", "drain": "review"},
    ),
    Public(
        "gpud",
        "[131453.740743] nvidia-nvswitch0: SXid (PCI:0000:00:00.0): 20034, Fatal, Link 30 LTSSM Fault Up",
        {"switch": 0, "link": 30, "class": "sxid_fatal", "drain": "now", "mnemonic": None},
    ),
    Public(
        "NVS",
        "[ 1108.858286] nvidia-nvswitch0: SXid (PCI:0000:c3:00.0): 24007, Fatal, Link 28 sourcetrack timeout error (First)",
        {"code": 24007, "class": "sxid_fatal"},
    ),
    Public(
        "NVS",
        "[123] nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 28006, Non-fatal, Link 46 MC TS crumbstore MCTO (First)",
        {"code": 28006, "class": "sxid_nonfatal", "drain": "no"},
    ),
    Public(
        "NVS",
        "[73309.599396] nvidia-nvswitch0: SXid (PCI:0000:06:00.0): 20009, Non-fatal, Link 04 RX Short Error Rate",
        {"link": 4, "drain": "no"},
    ),
    Public(
        "NVS",
        "[38889.01] nvidia-nvswitch1: SXid (PCI:0000:06:00.0): 20009, Non-fatal, Li",
        {"link": None, "drain": "no"},
    ),
    Public(
        "huggingface.co LHRS-UM-FERI/MENTHOS-dataset",
        "nvidia-nvswitch4: SXid (PCI:0000:c6:00.0): 19084, Non-fatal, Link 29 AN1 Heartbeat Timeout Error (First)",
        {"switch": 4, "link": 29, "class": "sxid_nonfatal", "drain": "review"},
    ),
    Public(
        "gpud",
        "nvidia-nvswitch2: SXid (PCI:0000:0a:00.0): 22013, Non-fatal, Link 57 Minion Link DLREQ interrupt",
        {"code": 22013, "drain": "no"},
    ),
    Public(
        "NVS", "nvidia-nvswitch0: SXid (PCI:0004:00:00.0): 26006, SOE HALTED", {"class": "unknown", "drain": "review"}
    ),
    Public("gpud", "nvidia-nvswitch0: SXid (PCI:0000:05:00.0): 20123, Unknown error", {"class": "unknown"}),
    Public(
        "OGK intr_lr10.c",
        "nvidia-nvswitch0: SXid (PCI:0000:05:00.0): 10003, Fatal, Unexpected PRI error",
        {"drain": "now"},
    ),
    Public("OGK lr10.c", "nvidia-nvswitch1: SXid (PCI:0000:05:00.0): 10005, NVSWITCH Temperature 83C", {"drain": "no"}),
    Public(
        "OGK intr_nvswitch.h",
        "nvidia-nvswitch1: SXid (PCI:0000:05:00.0): 12021, Correctable, Link 05 egress ECC (First)",
        {"class": "sxid_nonfatal", "drain": "no", "link": 5},
    ),
]

# The driver prints the version that a client says it has: any user's words.
FORGED_BY_A_CLIENT: Final = f"NVRM: API mismatch: the client has the version {FELL_OFF}, but"

NO_EVENTS: Final = [
    FORGED_BY_A_CLIENT,
    FORGED_BY_A_CLIENT.replace("NVRM: Xid", "\\x0aNVRM: Xid"),
    "NVRM: API mismatch: the client has the version NVRM: GPU at 0000:02:00.0 has fallen off the bus, but",
    f'[  12.345678] overlayfs: unrecognized mount option "{FELL_OFF}"',
    f'Nov 22 18:29:55 node7 kernel: [  12.345678] overlayfs: unrecognized mount option "{FELL_OFF}"',
    f"[  12.345678] python[4242]: {FELL_OFF}",
    f"2026-11-22 18:29:55.123 node7 alice: {FELL_OFF}",
    f"Nov 22 18:29:55.123456 node7 alice: {FELL_OFF}",
    f"Sun 2026-11-22 18:29:55 KST node7 alice: {FELL_OFF}",
    f"1795339795.123456 node7 alice: {FELL_OFF}",
    "",
    "NVRM: Xid",
    "NVRM: Xid (invalid): some error",
    "NVRM: Xid error: xyz, invalid data",
    "NVRM: Xid (PCI:0000:66:00): abc, pid=2280636",
    "NVRM: Xid (PCI:0000:01:00): x79, no code",
    "NVRM: Xid (PCI:0000:b3:00.0): INVALID, pid=1234, name=process",
    "NVRM: Xid : 32, pid=2280636",
    "NVRM: Xid (PCI:0000:66:00) 79, GPU has fallen off the bus",
    "NVRM: Xid (PCI:0000:66:00): 12345678901234567890, huge",
    "NVRM: Xid (43, pid: 5678): ROBUST_CHANNEL_RESETCHANNEL_VERIF_ERROR",
    "NVRM: Xid (PCI:zz00:66:00): 79, no address",
    "NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  580.95.05",
    "NVRM: GPU at PCI:0000:66:00: GPU-12345678-1234-5678-9abc-def012345678",
    "NVRM: GPU Board Serial Number: 1653723052734",
    "NVRM: GPU 0000:91:00.0: GPU serial number is 1653723052734.",
    "NVRM: GPU 0000:01:00.0: RmInitAdapter failed! (0x26:0x1a:1227)",
    "NVRM: krcWatchdog_IMPL: RC watchdog: GPU is probably locked!  Notify Timeout Seconds: 7",
    "NVRM: GPU6 kgmmuCheckMemSubsysError_IMPL: Memory Subsystem Error detected. kbusSendSysmembarSingle failed.",
    "NVRM: fallen off the bus and is not responding to commands.",
    "NVRM: The NVIDIA GPU invalid-bdf.0",
    "nvidia-nvswitch0: SXid (PCI:0000:00:00.0): xyz, Fatal error",
    "nvidia-nvswitch0: SXid (invalid): some error",
    "nvidia-nvswitch0: SXid (PCI:0000:a9:00.0): 20034, Data {0x50610002, 0x10100030}",
    "nvidia-nvswitch1: SXid (PCI:0000:c5:00.0): 24007, Severity 1 Engine instance 44 Sub-engine instance 00",
    "nvidia-nvswitch0: probing device 0000:c3:00.0, domain 0000, bus c3, device 00, function 0",
    "usb 1-1: Xid is a nice word",
    "pcieport 0000:15:01.0: AER: Uncorrectable (Fatal) error message received from 0000:1b:00.0",
    "amdgpu 0000:03:00.0: amdgpu: GPU fault detected: 146 0x0c80440c",
    "[drm] GPU has fallen off the bus",
    "nvidia-peermem nv_get_p2p_free_callback:127 ERROR detected invalid context, skipping further processing",
    "Oct 15 12:40:10 server kernel: NVRM: Xid (43, pid: 5678): ROBUST_CHANNEL_RESETCHANNEL_VERIF_ERROR",
    f"Nov 22 18:29:55 node7 alice: {FELL_OFF}",
    f"Nov 22 18:29:55 node7 python[4242]: {FELL_OFF}",
    f"2026-11-22T18:29:55.123456+09:00 node7 sudo[77]: COMMAND=/usr/bin/logger {FELL_OFF}",
    f"<13>Nov 22 18:29:55 node7 logger: {FELL_OFF}",
    f"bash[999]: {FELL_OFF}",
    "Nov 22 18:29:55 node7 logger: nvidia-nvswitch0: SXid (PCI:0000:00:00.0): 20034, Fatal, Link 30 LTSSM Fault Up",
    "Nov 22 18:29:55 node7 logger: NVRM: GPU 0000:29:00.0: GPU has fallen off the bus.",
]
