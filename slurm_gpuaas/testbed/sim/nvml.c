/*
 * Simulated libnvidia-ml.so.1: the part of NVML that the node agent and health checks use, on machines without a GPU.
 *
 * A node is a directory with two text files:
 *   nvml.state   `key value` lines, read again whenever the file changes: `driver_version 580.95.05`, `gpu.count 8`,
 *                `gpu.3.temperature 41`, `gpu.3.nvlink.5.state 0`, `gpu.3.process.4242 1073741824`, `gpu.3.field.230 2`
 *   nvml.events  one appended line `<gpu> <xid>` per critical XID
 *
 * The node is the directory named by GPUAAS_SIM_NODE_DIR, or the one a thread chose with gpuaasSimSelectNode(), so that one
 * process can play many nodes. Device handles and event sets stay with the node they were made for.
 *
 * Signatures, structures and numbers follow NVIDIA's public API reference. One inotify instance with one thread serves all
 * event sets of the process: a blocked nvmlEventSetWait costs nothing.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define API __attribute__((visibility("default")))
#define MAX_GPUS 16
#define MAX_LINKS 18
#define MAX_PROCESSES 16
#define MAX_FIELDS 16
#define UUID_BYTES 16

typedef int nvmlReturn_t;
enum {
    SUCCESS = 0,
    ERROR_UNINITIALIZED = 1,
    ERROR_INVALID_ARGUMENT = 2,
    ERROR_NOT_SUPPORTED = 3,
    ERROR_NOT_FOUND = 6,
    ERROR_INSUFFICIENT_SIZE = 7,
    ERROR_DRIVER_NOT_LOADED = 9,
    ERROR_TIMEOUT = 10,
    ERROR_GPU_IS_LOST = 15,
    ERROR_MEMORY = 20,
    ERROR_ARGUMENT_VERSION_MISMATCH = 25,
    ERROR_UNKNOWN = 999,
};
enum { EVENT_TYPE_XID_CRITICAL_ERROR = 8 };
enum { SAMPLES_GPU_UTILIZATION = 1, SAMPLES_MEMORY_UTILIZATION = 2 };
enum { SAMPLES_KEPT = 120, SAMPLE_PERIOD_US = 1000000 / 6 };
enum { VALUE_DOUBLE = 0, VALUE_UNSIGNED_INT = 1, VALUE_UNSIGNED_LONG = 2, VALUE_UNSIGNED_LONG_LONG = 3 };

/* Field identifiers of nvml.h that have a reading of their own; any other can be set as gpu.N.field.ID. */
enum {
    FI_ECC_SBE_VOL_TOTAL = 3,
    FI_ECC_DBE_VOL_TOTAL = 4,
    FI_ECC_SBE_AGG_TOTAL = 5,
    FI_ECC_DBE_AGG_TOTAL = 6,
    FI_MEMORY_TEMP = 82,
    FI_NVLINK_LINK_COUNT = 91,
    FI_PCIE_REPLAY_COUNTER = 94,
    FI_REMAPPED_COR = 142,
    FI_REMAPPED_UNC = 143,
    FI_REMAPPED_PENDING = 144,
    FI_REMAPPED_FAILURE = 145,
    FI_POWER_AVERAGE = 185,
    FI_POWER_INSTANT = 186,
    FI_GPU_RECOVERY_ACTION = 230,
};

typedef struct {
    unsigned int pid;
    unsigned long long usedGpuMemory;
    unsigned int gpuInstanceId, computeInstanceId;
} nvmlProcessInfo_t;

typedef struct {
    char busIdLegacy[16];
    unsigned int domain, bus, device, pciDeviceId, pciSubSystemId;
    char busId[32];
} nvmlPciInfo_t;

typedef struct {
    unsigned long long total, free, used;
} nvmlMemory_t;

typedef struct {
    unsigned int version;
    unsigned long long total, reserved, free, used;
} nvmlMemory_v2_t;

typedef struct {
    unsigned int gpu, memory;
} nvmlUtilization_t;

typedef struct {
    unsigned int fieldId, scopeId;
    long long timestamp, latencyUsec;
    unsigned int valueType;
    nvmlReturn_t nvmlReturn;
    union {
        double dVal;
        unsigned int uiVal;
        unsigned long long ullVal;
    } value;
} nvmlFieldValue_t;

typedef struct {
    unsigned long long timeStamp; /* microseconds since 1970 */
    union {
        double dVal;
        unsigned int uiVal;
        unsigned long long ullVal;
    } value;
} nvmlSample_t;

typedef struct {
    unsigned char clusterUuid[UUID_BYTES];
    nvmlReturn_t status;
    unsigned int cliqueId;
    unsigned int state;
} nvmlGpuFabricInfo_t;

typedef struct {
    unsigned int version;
    unsigned char clusterUuid[UUID_BYTES];
    nvmlReturn_t status;
    unsigned int cliqueId;
    unsigned int state;
    unsigned int healthMask;
} nvmlGpuFabricInfo_v2_t;

typedef struct {
    nvmlGpuFabricInfo_v2_t v2;
    unsigned char healthSummary;
} nvmlGpuFabricInfo_v3_t;

typedef struct {
    unsigned int version, sensorType;
    int temperature;
} nvmlTemperature_v1_t;

typedef struct {
    unsigned int max, high, partial, low, none;
} nvmlRowRemapperHistogramValues_t;

typedef struct {
    unsigned int version;
    unsigned long long counts[11];
    unsigned int thresholdExceeded;
} nvmlEccSramErrorStatus_v1_t;

struct node;

/* What nvml.state says of one GPU; cleared before each reading of the file. */
typedef struct {
    char name[96], uuid[96], serial[32], pci[32], fabric_uuid[64], vbios[32];
    unsigned long long minor, temperature, memory_temperature, power, power_limit, utilisation, memory_utilisation;
    unsigned long long memory_total, memory_reserved, memory_used;
    unsigned long long ecc_enabled, ecc_volatile_corrected, ecc_volatile_uncorrected, ecc_aggregate_corrected,
        ecc_aggregate_uncorrected;
    unsigned long long remap_correctable, remap_uncorrectable, remap_pending, remap_failure, retired_pending;
    unsigned long long nvlink_count, nvlink_version, fabric_state, fabric_clique, fabric_health_mask, fabric_health_summary;
    unsigned long long recovery_action, pcie_replays, lost, persistence, clocks_event_reasons, slowdown_temperature;
    unsigned long long pcie_width, pcie_width_max, pcie_generation, pcie_generation_max, sram_threshold, banks_exhausted;
    unsigned char link_down[MAX_LINKS];
    nvmlProcessInfo_t processes[MAX_PROCESSES];
    unsigned int process_count;
    struct {
        unsigned int id;
        unsigned long long value;
    } fields[MAX_FIELDS];
    unsigned int field_count;
} reading_t;

typedef struct device {
    struct node *node;
    unsigned int index;
    reading_t now;
} device_t;

typedef struct node {
    struct node *next;
    char dir[PATH_MAX];
    pthread_mutex_t lock;
    pthread_cond_t event_written;
    int watch;
    struct timespec mtime;
    ino_t inode;
    off_t size;
    char driver_version[80], nvml_version[80];
    unsigned long long cuda_version, gpu_count;
    device_t gpus[MAX_GPUS];
} node_t;

typedef struct {
    node_t *node;
    unsigned int gpus;  /* bit per registered GPU */
    off_t position;     /* how far nvml.events was read */
} event_set_t;

static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static node_t *registry;
static unsigned int initialised;
static int inotify_fd = -1;
static _Thread_local node_t *selected;

/* ---- nodes ------------------------------------------------------------------------------------------------------ */

/* The only reader of the inotify instance: wakes whoever waits for the node whose nvml.events was written. */
static void *watch_events(void *unused)
{
    (void)unused;
    char buffer[64 * 1024] __attribute__((aligned(__alignof__(struct inotify_event))));
    for (;;) {
        ssize_t length = read(inotify_fd, buffer, sizeof buffer);
        if (length <= 0) {
            if (length < 0 && errno == EINTR)
                continue;
            return NULL;
        }
        for (char *at = buffer; at < buffer + length;) {
            const struct inotify_event *event = (const struct inotify_event *)at;
            at += sizeof *event + event->len;
            int overflow = (event->mask & IN_Q_OVERFLOW) != 0;
            if (!overflow && (event->len == 0 || strcmp(event->name, "nvml.events") != 0))
                continue;
            pthread_mutex_lock(&registry_lock);
            node_t *node = registry;
            pthread_mutex_unlock(&registry_lock);
            for (; node; node = node->next) {
                if (!overflow && node->watch != event->wd)
                    continue;
                pthread_mutex_lock(&node->lock);
                pthread_cond_broadcast(&node->event_written);
                pthread_mutex_unlock(&node->lock);
            }
        }
    }
}

static node_t *find_node(const char *dir)
{
    if (!dir || !*dir || strlen(dir) >= PATH_MAX - 16)
        return NULL;
    pthread_mutex_lock(&registry_lock);
    node_t *node = registry;
    while (node && strcmp(node->dir, dir) != 0)
        node = node->next;
    if (!node && (node = calloc(1, sizeof *node)) != NULL) {
        strcpy(node->dir, dir);
        pthread_mutex_init(&node->lock, NULL);
        pthread_condattr_t attributes;
        pthread_condattr_init(&attributes);
        pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
        pthread_cond_init(&node->event_written, &attributes);
        pthread_condattr_destroy(&attributes);
        node->watch = -1;
        for (unsigned int i = 0; i < MAX_GPUS; i++) {
            node->gpus[i].node = node;
            node->gpus[i].index = i;
        }
        node->next = registry;
        registry = node;
    }
    pthread_mutex_unlock(&registry_lock);
    return node;
}

/* Extension of the simulation, absent from NVIDIA's library: the node that the calling thread's further calls are about. */
API nvmlReturn_t gpuaasSimSelectNode(const char *dir)
{
    node_t *node = find_node(dir);
    if (!node)
        return ERROR_INVALID_ARGUMENT;
    selected = node;
    return SUCCESS;
}

static node_t *this_node(void)
{
    return selected ? selected : find_node(getenv("GPUAAS_SIM_NODE_DIR"));
}

/* ---- nvml.state ------------------------------------------------------------------------------------------------- */

typedef struct {
    const char *key;
    size_t offset;
    size_t size; /* of the text, 0 for a number */
} state_key_t;

#define NUMBER(name) {#name, offsetof(reading_t, name), 0}
#define TEXT(name) {#name, offsetof(reading_t, name), sizeof(((reading_t *)0)->name)}
static const state_key_t GPU_KEYS[] = {
    TEXT(name), TEXT(uuid), TEXT(serial), TEXT(pci), TEXT(fabric_uuid), TEXT(vbios), NUMBER(minor), NUMBER(temperature),
    NUMBER(memory_temperature), NUMBER(power), NUMBER(power_limit), NUMBER(utilisation), NUMBER(memory_utilisation),
    NUMBER(memory_total), NUMBER(memory_reserved), NUMBER(memory_used), NUMBER(ecc_enabled), NUMBER(ecc_volatile_corrected),
    NUMBER(ecc_volatile_uncorrected), NUMBER(ecc_aggregate_corrected), NUMBER(ecc_aggregate_uncorrected),
    NUMBER(remap_correctable), NUMBER(remap_uncorrectable), NUMBER(remap_pending), NUMBER(remap_failure),
    NUMBER(retired_pending), NUMBER(nvlink_count), NUMBER(nvlink_version), NUMBER(fabric_state), NUMBER(fabric_clique),
    NUMBER(fabric_health_mask), NUMBER(fabric_health_summary), NUMBER(recovery_action), NUMBER(pcie_replays), NUMBER(lost),
    NUMBER(persistence), NUMBER(clocks_event_reasons), NUMBER(slowdown_temperature), NUMBER(pcie_width),
    NUMBER(pcie_width_max), NUMBER(pcie_generation), NUMBER(pcie_generation_max), NUMBER(sram_threshold),
    NUMBER(banks_exhausted),
};

static void copy(char *to, size_t size, const char *from)
{
    snprintf(to, size, "%s", from);
}

static void set_gpu(reading_t *gpu, const char *key, const char *value)
{
    unsigned long long number = strtoull(value, NULL, 0);
    unsigned int id;
    if (sscanf(key, "nvlink.%u.state", &id) == 1) {
        if (id < MAX_LINKS)
            gpu->link_down[id] = number == 0;
    } else if (sscanf(key, "process.%u", &id) == 1) {
        if (gpu->process_count < MAX_PROCESSES)
            gpu->processes[gpu->process_count++] = (nvmlProcessInfo_t){id, number, UINT_MAX, UINT_MAX};
    } else if (sscanf(key, "field.%u", &id) == 1) {
        if (gpu->field_count < MAX_FIELDS) {
            gpu->fields[gpu->field_count].id = id;
            gpu->fields[gpu->field_count++].value = number;
        }
    } else {
        for (size_t i = 0; i < sizeof GPU_KEYS / sizeof *GPU_KEYS; i++) {
            if (strcmp(GPU_KEYS[i].key, key) != 0)
                continue;
            char *field = (char *)gpu + GPU_KEYS[i].offset;
            if (GPU_KEYS[i].size)
                copy(field, GPU_KEYS[i].size, value);
            else
                *(unsigned long long *)(void *)field = number;
        }
    }
}

static void set_key(node_t *node, const char *key, const char *value)
{
    unsigned int index;
    int used = 0;
    if (strcmp(key, "driver_version") == 0)
        copy(node->driver_version, sizeof node->driver_version, value);
    else if (strcmp(key, "nvml_version") == 0)
        copy(node->nvml_version, sizeof node->nvml_version, value);
    else if (strcmp(key, "cuda_version") == 0)
        node->cuda_version = strtoull(value, NULL, 10);
    else if (strcmp(key, "gpu.count") == 0)
        node->gpu_count = strtoull(value, NULL, 10) < MAX_GPUS ? strtoull(value, NULL, 10) : MAX_GPUS;
    else if (sscanf(key, "gpu.%u.%n", &index, &used) == 1 && used > 0 && index < MAX_GPUS)
        set_gpu(&node->gpus[index].now, key + used, value);
}

/* Called with the node's lock held: reads nvml.state if it is another file than last time. */
static nvmlReturn_t refresh(node_t *node)
{
    char path[PATH_MAX], line[512];
    struct stat status;
    snprintf(path, sizeof path, "%.*s/nvml.state", PATH_MAX - 16, node->dir);
    if (stat(path, &status) != 0)
        return ERROR_DRIVER_NOT_LOADED;
    if (status.st_ino == node->inode && status.st_size == node->size && status.st_mtim.tv_sec == node->mtime.tv_sec &&
        status.st_mtim.tv_nsec == node->mtime.tv_nsec)
        return SUCCESS;
    FILE *file = fopen(path, "re");
    if (!file)
        return ERROR_DRIVER_NOT_LOADED;
    for (unsigned int i = 0; i < MAX_GPUS; i++)
        memset(&node->gpus[i].now, 0, sizeof node->gpus[i].now);
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = '\0';
        char *value = strchr(line, ' ');
        if (*line == '#' || !value)
            continue;
        *value++ = '\0';
        set_key(node, line, value);
    }
    fclose(file);
    node->inode = status.st_ino;
    node->size = status.st_size;
    node->mtime = status.st_mtim;
    return SUCCESS;
}

/* Copies what the state file says of a device now; every per-device query begins with it. */
static nvmlReturn_t observe(const device_t *device, reading_t *reading)
{
    if (!initialised)
        return ERROR_UNINITIALIZED;
    if (!device)
        return ERROR_INVALID_ARGUMENT;
    node_t *node = device->node;
    pthread_mutex_lock(&node->lock);
    nvmlReturn_t result = refresh(node);
    *reading = device->now;
    if (result == SUCCESS && device->index >= node->gpu_count)
        result = ERROR_INVALID_ARGUMENT;
    pthread_mutex_unlock(&node->lock);
    if (result == SUCCESS && reading->lost)
        result = ERROR_GPU_IS_LOST;
    return result;
}

/* Same for queries about the node. */
static nvmlReturn_t observe_node(node_t **node)
{
    if (!initialised)
        return ERROR_UNINITIALIZED;
    *node = this_node();
    if (!*node)
        return ERROR_DRIVER_NOT_LOADED;
    pthread_mutex_lock(&(*node)->lock);
    nvmlReturn_t result = refresh(*node);
    pthread_mutex_unlock(&(*node)->lock);
    return result;
}

#define OBSERVE(device, reading)                           \
    reading_t reading;                                     \
    do {                                                   \
        nvmlReturn_t observed = observe(device, &reading); \
        if (observed != SUCCESS)                           \
            return observed;                               \
    } while (0)

static nvmlReturn_t put_text(char *to, unsigned int size, const char *text)
{
    if (!to)
        return ERROR_INVALID_ARGUMENT;
    if (strlen(text) >= size)
        return ERROR_INSUFFICIENT_SIZE;
    strcpy(to, text);
    return SUCCESS;
}

static nvmlReturn_t put(unsigned int *to, unsigned long long value)
{
    if (!to)
        return ERROR_INVALID_ARGUMENT;
    *to = (unsigned int)value;
    return SUCCESS;
}

/* ---- library and system ------------------------------------------------------------------------------------------ */

API nvmlReturn_t nvmlInitWithFlags(unsigned int flags)
{
    (void)flags;
    node_t *node = this_node();
    char path[PATH_MAX];
    if (!node)
        return ERROR_DRIVER_NOT_LOADED;
    snprintf(path, sizeof path, "%.*s/nvml.state", PATH_MAX - 16, node->dir);
    if (access(path, R_OK) != 0)
        return ERROR_DRIVER_NOT_LOADED;
    pthread_mutex_lock(&registry_lock);
    nvmlReturn_t result = SUCCESS;
    if (inotify_fd < 0) {
        pthread_t thread;
        inotify_fd = inotify_init1(IN_CLOEXEC);
        if (inotify_fd < 0 || pthread_create(&thread, NULL, watch_events, NULL) != 0)
            result = ERROR_MEMORY;
        else
            pthread_detach(thread);
    }
    if (result == SUCCESS)
        initialised++;
    pthread_mutex_unlock(&registry_lock);
    return result;
}

API nvmlReturn_t nvmlInit_v2(void)
{
    return nvmlInitWithFlags(0);
}

API nvmlReturn_t nvmlShutdown(void)
{
    pthread_mutex_lock(&registry_lock);
    nvmlReturn_t result = initialised ? SUCCESS : ERROR_UNINITIALIZED;
    if (initialised)
        initialised--;
    pthread_mutex_unlock(&registry_lock);
    return result;
}

API const char *nvmlErrorString(nvmlReturn_t result)
{
    switch (result) {
    case SUCCESS: return "Success";
    case ERROR_UNINITIALIZED: return "Uninitialized";
    case ERROR_INVALID_ARGUMENT: return "Invalid Argument";
    case ERROR_NOT_SUPPORTED: return "Not Supported";
    case ERROR_NOT_FOUND: return "Not Found";
    case ERROR_INSUFFICIENT_SIZE: return "Insufficient Size";
    case ERROR_DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case ERROR_TIMEOUT: return "Timeout";
    case ERROR_GPU_IS_LOST: return "GPU is lost";
    case ERROR_MEMORY: return "Insufficient Memory";
    case ERROR_ARGUMENT_VERSION_MISMATCH: return "API Argument Version Mismatch";
    default: return "Unknown Error";
    }
}

API nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length)
{
    node_t *node;
    nvmlReturn_t result = observe_node(&node);
    return result == SUCCESS ? put_text(version, length, node->driver_version) : result;
}

API nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned int length)
{
    node_t *node;
    nvmlReturn_t result = observe_node(&node);
    return result == SUCCESS ? put_text(version, length, node->nvml_version) : result;
}

API nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    node_t *node;
    nvmlReturn_t result = observe_node(&node);
    return result == SUCCESS ? put((unsigned int *)version, node->cuda_version) : result;
}

API nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version)
{
    return nvmlSystemGetCudaDriverVersion_v2(version);
}

/* ---- finding devices --------------------------------------------------------------------------------------------- */

API nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count)
{
    node_t *node;
    nvmlReturn_t result = observe_node(&node);
    return result == SUCCESS ? put(count, node->gpu_count) : result;
}

API nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, device_t **device)
{
    node_t *node;
    nvmlReturn_t result = observe_node(&node);
    if (result != SUCCESS)
        return result;
    if (!device || index >= node->gpu_count)
        return ERROR_INVALID_ARGUMENT;
    reading_t reading;
    result = observe(&node->gpus[index], &reading);
    if (result == SUCCESS)
        *device = &node->gpus[index];
    return result;
}

/* The device whose text at `offset` equals the one asked for, ignoring case. A lost device cannot be found. */
static nvmlReturn_t find_device(const char *text, size_t offset, device_t **device)
{
    node_t *node;
    nvmlReturn_t result = observe_node(&node);
    if (result != SUCCESS)
        return result;
    if (!text || !device)
        return ERROR_INVALID_ARGUMENT;
    for (unsigned int i = 0; i < node->gpu_count; i++) {
        reading_t reading;
        result = observe(&node->gpus[i], &reading);
        if (strcasecmp((const char *)&reading + offset, text) != 0)
            continue;
        if (result == SUCCESS)
            *device = &node->gpus[i];
        return result;
    }
    return ERROR_NOT_FOUND;
}

API nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, device_t **device)
{
    return find_device(uuid, offsetof(reading_t, uuid), device);
}

API nvmlReturn_t nvmlDeviceGetHandleBySerial(const char *serial, device_t **device)
{
    return find_device(serial, offsetof(reading_t, serial), device);
}

API nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, device_t **device)
{
    unsigned int domain = 0, bus, slot, function = 0;
    char full[32];
    if (!bus_id)
        return ERROR_INVALID_ARGUMENT;
    if (sscanf(bus_id, "%x:%x:%x.%x", &domain, &bus, &slot, &function) < 3) {
        domain = 0;
        if (sscanf(bus_id, "%x:%x.%x", &bus, &slot, &function) < 2)
            return ERROR_INVALID_ARGUMENT;
    }
    snprintf(full, sizeof full, "%08X:%02X:%02X.%X", domain, bus & 0xff, slot & 0xff, function & 0xf);
    return find_device(full, offsetof(reading_t, pci), device);
}

/* ---- identity ---------------------------------------------------------------------------------------------------- */

API nvmlReturn_t nvmlDeviceGetIndex(const device_t *device, unsigned int *index)
{
    return device ? put(index, device->index) : ERROR_INVALID_ARGUMENT;
}

API nvmlReturn_t nvmlDeviceGetName(const device_t *device, char *name, unsigned int length)
{
    OBSERVE(device, gpu);
    return put_text(name, length, gpu.name);
}

API nvmlReturn_t nvmlDeviceGetUUID(const device_t *device, char *uuid, unsigned int length)
{
    OBSERVE(device, gpu);
    return put_text(uuid, length, gpu.uuid);
}

API nvmlReturn_t nvmlDeviceGetSerial(const device_t *device, char *serial, unsigned int length)
{
    OBSERVE(device, gpu);
    return put_text(serial, length, gpu.serial);
}

API nvmlReturn_t nvmlDeviceGetVbiosVersion(const device_t *device, char *version, unsigned int length)
{
    OBSERVE(device, gpu);
    return put_text(version, length, gpu.vbios);
}

API nvmlReturn_t nvmlDeviceGetMinorNumber(const device_t *device, unsigned int *minor)
{
    OBSERVE(device, gpu);
    return put(minor, gpu.minor);
}

API nvmlReturn_t nvmlDeviceGetPciInfo_v3(const device_t *device, nvmlPciInfo_t *pci)
{
    OBSERVE(device, gpu);
    if (!pci)
        return ERROR_INVALID_ARGUMENT;
    memset(pci, 0, sizeof *pci);
    if (sscanf(gpu.pci, "%x:%x:%x", &pci->domain, &pci->bus, &pci->device) != 3)
        return ERROR_UNKNOWN;
    pci->pciDeviceId = strstr(gpu.name, "B200") ? 0x290110DEu : 0x233510DEu;
    copy(pci->busId, sizeof pci->busId, gpu.pci);
    snprintf(pci->busIdLegacy, sizeof pci->busIdLegacy, "%04X:%02X:%02X.0", pci->domain & 0xffff, pci->bus & 0xff,
             pci->device & 0xff);
    return SUCCESS;
}

/* ---- readings ---------------------------------------------------------------------------------------------------- */

API nvmlReturn_t nvmlDeviceGetUtilizationRates(const device_t *device, nvmlUtilization_t *utilisation)
{
    OBSERVE(device, gpu);
    if (!utilisation)
        return ERROR_INVALID_ARGUMENT;
    *utilisation = (nvmlUtilization_t){(unsigned int)gpu.utilisation, (unsigned int)gpu.memory_utilisation};
    return SUCCESS;
}

/* The driver keeps readings of the last 20 s, six a second. The simulation has no memory: all of them are as it is now. */
API nvmlReturn_t nvmlDeviceGetSamples(const device_t *device, int type, unsigned long long last_seen, int *value_type,
                                      unsigned int *count, nvmlSample_t *samples)
{
    OBSERVE(device, gpu);
    if (!value_type || !count)
        return ERROR_INVALID_ARGUMENT;
    if (type != SAMPLES_GPU_UTILIZATION && type != SAMPLES_MEMORY_UTILIZATION)
        return ERROR_NOT_SUPPORTED;
    *value_type = VALUE_UNSIGNED_INT;
    if (!samples) {
        *count = SAMPLES_KEPT;
        return SUCCESS;
    }
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    unsigned long long newest = ((unsigned long long)now.tv_sec * 1000000 + (unsigned long long)now.tv_nsec / 1000) /
                                SAMPLE_PERIOD_US;
    unsigned int room = *count < SAMPLES_KEPT ? *count : SAMPLES_KEPT, found = 0;
    for (unsigned long long number = newest - room + 1; number <= newest; number++) {
        if (number * SAMPLE_PERIOD_US <= last_seen)
            continue;
        samples[found].timeStamp = number * SAMPLE_PERIOD_US;
        samples[found].value.ullVal = type == SAMPLES_GPU_UTILIZATION ? gpu.utilisation : gpu.memory_utilisation;
        found++;
    }
    *count = found;
    return found ? SUCCESS : ERROR_NOT_FOUND;
}

API nvmlReturn_t nvmlDeviceGetMemoryInfo(const device_t *device, nvmlMemory_t *memory)
{
    OBSERVE(device, gpu);
    if (!memory)
        return ERROR_INVALID_ARGUMENT;
    /* The first version counts what the driver reserves as used. */
    unsigned long long used = gpu.memory_reserved + gpu.memory_used;
    *memory = (nvmlMemory_t){gpu.memory_total, gpu.memory_total - used, used};
    return SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(const device_t *device, nvmlMemory_v2_t *memory)
{
    OBSERVE(device, gpu);
    if (!memory)
        return ERROR_INVALID_ARGUMENT;
    if (memory->version != (sizeof *memory | 2u << 24))
        return ERROR_ARGUMENT_VERSION_MISMATCH;
    memory->total = gpu.memory_total;
    memory->reserved = gpu.memory_reserved;
    memory->used = gpu.memory_used;
    memory->free = gpu.memory_total - gpu.memory_reserved - gpu.memory_used;
    return SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetPowerUsage(const device_t *device, unsigned int *milliwatts)
{
    OBSERVE(device, gpu);
    return put(milliwatts, gpu.power);
}

API nvmlReturn_t nvmlDeviceGetEnforcedPowerLimit(const device_t *device, unsigned int *milliwatts)
{
    OBSERVE(device, gpu);
    return put(milliwatts, gpu.power_limit);
}

API nvmlReturn_t nvmlDeviceGetTemperature(const device_t *device, int sensor, unsigned int *celsius)
{
    OBSERVE(device, gpu);
    return sensor == 0 ? put(celsius, gpu.temperature) : ERROR_INVALID_ARGUMENT;
}

API nvmlReturn_t nvmlDeviceGetTemperatureV(const device_t *device, nvmlTemperature_v1_t *temperature)
{
    OBSERVE(device, gpu);
    if (!temperature || temperature->sensorType != 0)
        return ERROR_INVALID_ARGUMENT;
    if (temperature->version != (sizeof *temperature | 1u << 24))
        return ERROR_ARGUMENT_VERSION_MISMATCH;
    temperature->temperature = (int)gpu.temperature;
    return SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetTemperatureThreshold(const device_t *device, int threshold, unsigned int *celsius)
{
    OBSERVE(device, gpu);
    return threshold == 1 ? put(celsius, gpu.slowdown_temperature) : ERROR_NOT_SUPPORTED;
}

/* Queries that answer with one number of the state file. */
#define ONE_NUMBER(function, field)                                      \
    API nvmlReturn_t function(const device_t *device, unsigned int *value) \
    {                                                                    \
        OBSERVE(device, gpu);                                            \
        return put(value, gpu.field);                                    \
    }
ONE_NUMBER(nvmlDeviceGetPersistenceMode, persistence)
ONE_NUMBER(nvmlDeviceGetCurrPcieLinkWidth, pcie_width)
ONE_NUMBER(nvmlDeviceGetMaxPcieLinkWidth, pcie_width_max)
ONE_NUMBER(nvmlDeviceGetCurrPcieLinkGeneration, pcie_generation)
ONE_NUMBER(nvmlDeviceGetMaxPcieLinkGeneration, pcie_generation_max)

API nvmlReturn_t nvmlDeviceGetCurrentClocksEventReasons(const device_t *device, unsigned long long *reasons)
{
    OBSERVE(device, gpu);
    if (!reasons)
        return ERROR_INVALID_ARGUMENT;
    *reasons = gpu.clocks_event_reasons;
    return SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetEccMode(const device_t *device, unsigned int *current, unsigned int *pending)
{
    OBSERVE(device, gpu);
    nvmlReturn_t result = put(current, gpu.ecc_enabled);
    return result == SUCCESS ? put(pending, gpu.ecc_enabled) : result;
}

API nvmlReturn_t nvmlDeviceGetTotalEccErrors(const device_t *device, unsigned int type, unsigned int counter,
                                             unsigned long long *count)
{
    OBSERVE(device, gpu);
    if (!count || type > 1 || counter > 1)
        return ERROR_INVALID_ARGUMENT;
    if (!gpu.ecc_enabled)
        return ERROR_NOT_SUPPORTED;
    const unsigned long long counts[2][2] = {{gpu.ecc_volatile_corrected, gpu.ecc_aggregate_corrected},
                                             {gpu.ecc_volatile_uncorrected, gpu.ecc_aggregate_uncorrected}};
    *count = counts[type][counter];
    return SUCCESS;
}

/* All simulated errors are in device memory (location 2). */
API nvmlReturn_t nvmlDeviceGetMemoryErrorCounter(const device_t *device, unsigned int type, unsigned int counter,
                                                 unsigned int location, unsigned long long *count)
{
    nvmlReturn_t result = nvmlDeviceGetTotalEccErrors(device, type, counter, count);
    if (result == SUCCESS && location != 2)
        *count = 0;
    return result;
}

API nvmlReturn_t nvmlDeviceGetRemappedRows(const device_t *device, unsigned int *correctable, unsigned int *uncorrectable,
                                           unsigned int *pending, unsigned int *failure)
{
    OBSERVE(device, gpu);
    if (!correctable || !uncorrectable || !pending || !failure)
        return ERROR_INVALID_ARGUMENT;
    *correctable = (unsigned int)gpu.remap_correctable;
    *uncorrectable = (unsigned int)gpu.remap_uncorrectable;
    *pending = gpu.remap_pending != 0;
    *failure = gpu.remap_failure != 0;
    return SUCCESS;
}

/* Banks by what is left of their spare rows; an HGX GPU has some hundreds, here 640. */
API nvmlReturn_t nvmlDeviceGetRowRemapperHistogram(const device_t *device, nvmlRowRemapperHistogramValues_t *banks)
{
    OBSERVE(device, gpu);
    if (!banks)
        return ERROR_INVALID_ARGUMENT;
    *banks = (nvmlRowRemapperHistogramValues_t){640 - (unsigned int)gpu.banks_exhausted, 0, 0, 0,
                                                (unsigned int)gpu.banks_exhausted};
    return SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetSramEccErrorStatus(const device_t *device, nvmlEccSramErrorStatus_v1_t *status)
{
    OBSERVE(device, gpu);
    if (!status)
        return ERROR_INVALID_ARGUMENT;
    if (status->version != (sizeof *status | 1u << 24))
        return ERROR_ARGUMENT_VERSION_MISMATCH;
    memset(status->counts, 0, sizeof status->counts);
    status->thresholdExceeded = gpu.sram_threshold != 0;
    return SUCCESS;
}

/* Page retirement is for GPUs before Ampere; later ones remap rows and say that it is not supported. */
API nvmlReturn_t nvmlDeviceGetRetiredPages(const device_t *device, unsigned int cause, unsigned int *count,
                                           unsigned long long *addresses)
{
    OBSERVE(device, gpu);
    (void)gpu, (void)cause, (void)count, (void)addresses;
    return ERROR_NOT_SUPPORTED;
}

API nvmlReturn_t nvmlDeviceGetRetiredPagesPendingStatus(const device_t *device, unsigned int *pending)
{
    OBSERVE(device, gpu);
    return put(pending, gpu.retired_pending);
}

API nvmlReturn_t nvmlDeviceGetNvLinkState(const device_t *device, unsigned int link, unsigned int *active)
{
    OBSERVE(device, gpu);
    return link < gpu.nvlink_count && link < MAX_LINKS ? put(active, !gpu.link_down[link]) : ERROR_INVALID_ARGUMENT;
}

API nvmlReturn_t nvmlDeviceGetNvLinkVersion(const device_t *device, unsigned int link, unsigned int *version)
{
    OBSERVE(device, gpu);
    return link < gpu.nvlink_count ? put(version, gpu.nvlink_version) : ERROR_INVALID_ARGUMENT;
}

static void parse_uuid(const char *text, unsigned char bytes[UUID_BYTES])
{
    memset(bytes, 0, UUID_BYTES);
    for (int i = 0; i < UUID_BYTES && *text; text++) {
        unsigned int byte;
        if (*text != '-' && sscanf(text, "%2x", &byte) == 1) {
            bytes[i++] = (unsigned char)byte;
            text++;
        }
    }
}

API nvmlReturn_t nvmlDeviceGetGpuFabricInfo(const device_t *device, nvmlGpuFabricInfo_t *fabric)
{
    OBSERVE(device, gpu);
    if (!fabric)
        return ERROR_INVALID_ARGUMENT;
    parse_uuid(gpu.fabric_uuid, fabric->clusterUuid);
    fabric->status = SUCCESS;
    fabric->cliqueId = (unsigned int)gpu.fabric_clique;
    fabric->state = (unsigned int)gpu.fabric_state;
    return SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetGpuFabricInfoV(const device_t *device, nvmlGpuFabricInfo_v2_t *fabric)
{
    OBSERVE(device, gpu);
    if (!fabric)
        return ERROR_INVALID_ARGUMENT;
    int third = fabric->version == (sizeof(nvmlGpuFabricInfo_v3_t) | 3u << 24);
    if (!third && fabric->version != (sizeof *fabric | 2u << 24))
        return ERROR_ARGUMENT_VERSION_MISMATCH;
    parse_uuid(gpu.fabric_uuid, fabric->clusterUuid);
    fabric->status = SUCCESS;
    fabric->cliqueId = (unsigned int)gpu.fabric_clique;
    fabric->state = (unsigned int)gpu.fabric_state;
    fabric->healthMask = (unsigned int)gpu.fabric_health_mask;
    if (third)
        ((nvmlGpuFabricInfo_v3_t *)fabric)->healthSummary = (unsigned char)gpu.fabric_health_summary;
    return SUCCESS;
}

static nvmlReturn_t field_value(const reading_t *gpu, unsigned int id, unsigned long long *value)
{
    for (unsigned int i = 0; i < gpu->field_count; i++) {
        if (gpu->fields[i].id == id) {
            *value = gpu->fields[i].value;
            return SUCCESS;
        }
    }
    switch (id) {
    case FI_ECC_SBE_VOL_TOTAL: *value = gpu->ecc_volatile_corrected; return SUCCESS;
    case FI_ECC_DBE_VOL_TOTAL: *value = gpu->ecc_volatile_uncorrected; return SUCCESS;
    case FI_ECC_SBE_AGG_TOTAL: *value = gpu->ecc_aggregate_corrected; return SUCCESS;
    case FI_ECC_DBE_AGG_TOTAL: *value = gpu->ecc_aggregate_uncorrected; return SUCCESS;
    case FI_MEMORY_TEMP: *value = gpu->memory_temperature; return SUCCESS;
    case FI_NVLINK_LINK_COUNT: *value = gpu->nvlink_count; return SUCCESS;
    case FI_PCIE_REPLAY_COUNTER: *value = gpu->pcie_replays; return SUCCESS;
    case FI_REMAPPED_COR: *value = gpu->remap_correctable; return SUCCESS;
    case FI_REMAPPED_UNC: *value = gpu->remap_uncorrectable; return SUCCESS;
    case FI_REMAPPED_PENDING: *value = gpu->remap_pending; return SUCCESS;
    case FI_REMAPPED_FAILURE: *value = gpu->remap_failure; return SUCCESS;
    case FI_POWER_AVERAGE:
    case FI_POWER_INSTANT: *value = gpu->power; return SUCCESS;
    case FI_GPU_RECOVERY_ACTION: *value = gpu->recovery_action; return SUCCESS;
    default: return ERROR_NOT_SUPPORTED;
    }
}

API nvmlReturn_t nvmlDeviceGetFieldValues(const device_t *device, int count, nvmlFieldValue_t *values)
{
    OBSERVE(device, gpu);
    if (!values || count < 1)
        return ERROR_INVALID_ARGUMENT;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    for (int i = 0; i < count; i++) {
        unsigned long long value = 0;
        values[i].nvmlReturn = field_value(&gpu, values[i].fieldId, &value);
        values[i].timestamp = (long long)now.tv_sec * 1000000 + now.tv_nsec / 1000;
        values[i].latencyUsec = 0;
        int wide = values[i].fieldId <= FI_ECC_DBE_AGG_TOTAL;
        values[i].valueType = wide ? VALUE_UNSIGNED_LONG_LONG : VALUE_UNSIGNED_INT;
        values[i].value.ullVal = value; /* little-endian: uiVal reads the low half */
    }
    return SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(const device_t *device, unsigned int *count,
                                                         nvmlProcessInfo_t *processes)
{
    OBSERVE(device, gpu);
    if (!count)
        return ERROR_INVALID_ARGUMENT;
    unsigned int room = *count;
    *count = gpu.process_count;
    if (gpu.process_count == 0)
        return SUCCESS;
    if (!processes || room < gpu.process_count)
        return ERROR_INSUFFICIENT_SIZE;
    memcpy(processes, gpu.processes, gpu.process_count * sizeof *processes);
    return SUCCESS;
}

/* ---- events ------------------------------------------------------------------------------------------------------ */

typedef struct {
    device_t *device;
    unsigned long long eventType, eventData;
    unsigned int gpuInstanceId, computeInstanceId;
} nvmlEventData_t;

API nvmlReturn_t nvmlDeviceGetSupportedEventTypes(const device_t *device, unsigned long long *types)
{
    OBSERVE(device, gpu);
    (void)gpu;
    if (!types)
        return ERROR_INVALID_ARGUMENT;
    *types = EVENT_TYPE_XID_CRITICAL_ERROR;
    return SUCCESS;
}

/* Like the driver, a set tells of what happens after it was made, not before. */
API nvmlReturn_t nvmlEventSetCreate(event_set_t **set)
{
    node_t *node;
    nvmlReturn_t result = observe_node(&node);
    if (result != SUCCESS || !set)
        return result != SUCCESS ? result : ERROR_INVALID_ARGUMENT;
    event_set_t *made = calloc(1, sizeof *made);
    if (!made)
        return ERROR_MEMORY;
    char path[PATH_MAX];
    struct stat status;
    made->node = node;
    pthread_mutex_lock(&node->lock);
    if (node->watch < 0)
        node->watch = inotify_add_watch(inotify_fd, node->dir, IN_MODIFY | IN_CREATE | IN_MOVED_TO);
    snprintf(path, sizeof path, "%.*s/nvml.events", PATH_MAX - 16, node->dir);
    made->position = stat(path, &status) == 0 ? status.st_size : 0;
    result = node->watch < 0 ? ERROR_MEMORY : SUCCESS;
    pthread_mutex_unlock(&node->lock);
    if (result == SUCCESS)
        *set = made;
    else
        free(made);
    return result;
}

API nvmlReturn_t nvmlDeviceRegisterEvents(device_t *device, unsigned long long types, event_set_t *set)
{
    OBSERVE(device, gpu);
    (void)gpu;
    if (!set || set->node != device->node)
        return ERROR_INVALID_ARGUMENT;
    if (types & ~(unsigned long long)EVENT_TYPE_XID_CRITICAL_ERROR)
        return ERROR_NOT_SUPPORTED;
    set->gpus |= 1u << device->index;
    return SUCCESS;
}

/* Reads the next whole line that is about a registered GPU. False when there is none yet. */
static int next_event(event_set_t *set, nvmlEventData_t *data)
{
    char path[PATH_MAX], line[64];
    snprintf(path, sizeof path, "%.*s/nvml.events", PATH_MAX - 16, set->node->dir);
    FILE *file = fopen(path, "re");
    if (!file)
        return 0;
    struct stat status;
    if (fstat(fileno(file), &status) == 0 && status.st_size < set->position)
        set->position = 0; /* the file was begun anew */
    int found = 0;
    if (fseeko(file, set->position, SEEK_SET) == 0) {
        while (!found && fgets(line, sizeof line, file)) {
            size_t length = strlen(line);
            if (line[length - 1] != '\n')
                break; /* its writer is not done */
            set->position += (off_t)length;
            unsigned int gpu, xid;
            if (sscanf(line, "%u %u", &gpu, &xid) != 2 || gpu >= MAX_GPUS || !(set->gpus >> gpu & 1))
                continue;
            *data = (nvmlEventData_t){&set->node->gpus[gpu], EVENT_TYPE_XID_CRITICAL_ERROR, xid, UINT_MAX, UINT_MAX};
            found = 1;
        }
    }
    fclose(file);
    return found;
}

static int lost_gpu_registered(const event_set_t *set)
{
    for (unsigned int i = 0; i < MAX_GPUS; i++)
        if ((set->gpus >> i & 1) && set->node->gpus[i].now.lost)
            return 1;
    return 0;
}

API nvmlReturn_t nvmlEventSetWait_v2(event_set_t *set, nvmlEventData_t *data, unsigned int timeout_ms)
{
    if (!initialised)
        return ERROR_UNINITIALIZED;
    if (!set || !data)
        return ERROR_INVALID_ARGUMENT;
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += timeout_ms / 1000;
    until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    node_t *node = set->node;
    nvmlReturn_t result = SUCCESS;
    pthread_mutex_lock(&node->lock);
    while (!next_event(set, data)) {
        /* A GPU that fell off the bus gives its XID first and from then on an error, as the driver does. */
        refresh(node);
        if (lost_gpu_registered(set)) {
            result = ERROR_GPU_IS_LOST;
            break;
        }
        if (pthread_cond_timedwait(&node->event_written, &node->lock, &until) == ETIMEDOUT) {
            result = next_event(set, data) ? SUCCESS : ERROR_TIMEOUT;
            break;
        }
    }
    pthread_mutex_unlock(&node->lock);
    return result;
}

API nvmlReturn_t nvmlEventSetFree(event_set_t *set)
{
    free(set);
    return SUCCESS;
}
