/* A libnvidia-ml.so.1 that plays a power curve, for tests of the real pynvml path.
 *
 * FAKE_NVML_CURVE  "seconds:watts,seconds:watts,..." straight lines between points, repeated after
 *                  the last one; default "0:100,1:100". Two points at the same time make a jump.
 * FAKE_NVML_START  CLOCK_MONOTONIC nanoseconds of the curve's second 0; default 0.
 * FAKE_NVML_PERIOD counter period in milliseconds; default 100. 0 means no counter.
 * FAKE_NVML_GPUS   number of GPUs; default 1. GPU i draws (i + 1) times the curve.
 * FAKE_NVML_ARCH   architecture number; default 8 (Ada).
 * FAKE_NVML_MISSING comma-separated names of functions or fields that return "not supported":
 *                  fields, total, usage, instant, average, uuid, rates, instant-gpu (GPU scope only).
 * FAKE_NVML_STAMP  "refresh" (default) or "call": the event that the field timestamps give.
 * FAKE_NVML_DIES   seconds after which every reading fails with "GPU is lost".
 * FAKE_NVML_PIDS   "pid:sm,pid:sm": compute processes and their SM utilisation.
 * FAKE_NVML_INIT   error code of nvmlInit; default 0.
 * FAKE_NVML_MIG    1 when MIG is on.
 * FAKE_NVML_LIMITS file with the power limit of each GPU in milliwatts, one per line, which survives
 *                  the process as a real limit does; missing lines are the default, 450,000. It is
 *                  replaced atomically. Without it, limits live as long as the process.
 * FAKE_NVML_ROUND  the driver cuts limits to multiples of this, milliwatts; default 1.
 * FAKE_NVML_DENY   "permission": no limit may be set; "silent": it returns success and sets nothing.
 * FAKE_NVML_ENFORCED highest limit that is enforced, milliwatts (a second limit of the board).
 * FAKE_NVML_REASONS bits of the clocks event reasons; default 0.
 *
 * A program that sets `fake_nvml_now_ns` takes both clocks over: time passes only when it says so.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>
#include <time.h>

enum { SUCCESS = 0, INVALID = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4, INSUFFICIENT_SIZE = 7, GPU_LOST = 15 };

typedef struct {
    unsigned fieldId, scopeId;
    long long timestamp, latencyUsec;
    unsigned valueType, nvmlReturn;
    union { double d; unsigned ui; unsigned long ul; unsigned long long ull; long long sll; } value;
} field_value;

typedef struct { unsigned pid; unsigned long long memory; unsigned gi, ci; } process_info;
typedef struct {
    unsigned pid; unsigned long long stamp; unsigned sm, memory, enc, dec;
} process_sample;

#define MOST 4096
static double times[MOST], watts[MOST], joules[MOST];
static int points;

long long fake_nvml_now_ns = -1;

static long long now_of(clockid_t id) {
    struct timespec t;
    if (fake_nvml_now_ns >= 0) return fake_nvml_now_ns;
    clock_gettime(id, &t);
    return (long long)t.tv_sec * 1000000000LL + t.tv_nsec;
}

static double number(const char *name, double fallback) {
    const char *text = getenv(name);
    return text && *text ? atof(text) : fallback;
}

static int missing(const char *word) {
    const char *list = getenv("FAKE_NVML_MISSING");
    char copy[512];
    if (!list) return 0;
    snprintf(copy, sizeof copy, "%s", list);
    for (char *part = strtok(copy, ","); part; part = strtok(NULL, ","))
        if (!strcmp(part, word)) return 1;
    return 0;
}

static void load(void) {
    if (points) return;
    const char *text = getenv("FAKE_NVML_CURVE");
    if (!text || !*text) text = "0:100,1:100";
    while (*text && points < MOST) {
        char *end;
        times[points] = strtod(text, &end);
        if (*end == ':') end++;
        watts[points] = strtod(end, &end);
        joules[points] = points ? joules[points - 1] + (times[points] - times[points - 1]) *
                         (watts[points] + watts[points - 1]) / 2 : 0;
        points++;
        text = *end == ',' ? end + 1 : end;
    }
}

/* Energy of the curve up to a time, in joules. */
static double energy_at(double s) {
    load();
    double span = times[points - 1] - times[0], whole = joules[points - 1];
    if (span <= 0) return s * watts[0];
    double rounds = floor(s / span), rest = s - rounds * span + times[0], total = rounds * whole;
    for (int i = 1; i < points; i++) {
        if (rest > times[i]) continue;
        double length = times[i] - times[i - 1], part = rest - times[i - 1];
        if (length <= 0) continue;
        double w = watts[i - 1] + (watts[i] - watts[i - 1]) * part / length;
        return total + joules[i - 1] + part * (watts[i - 1] + w) / 2;
    }
    return total + whole;
}

static double seconds_now(void) {
    return (now_of(CLOCK_MONOTONIC) - number("FAKE_NVML_START", 0)) / 1e9;
}

static double refreshed(double s) {
    double period = number("FAKE_NVML_PERIOD", 100) / 1e3;
    return period > 0 ? floor(s / period) * period : s;
}

static int dead(void) {
    double dies = number("FAKE_NVML_DIES", -1);
    return dies >= 0 && seconds_now() > dies;
}

static unsigned index_of(void *device) { return (unsigned)((uintptr_t)device - 1); }
static double scale(void *device) { return index_of(device) + 1; }

static double mean_watts(double end, double window) {
    return (energy_at(end) - energy_at(end - window)) / window;
}

int nvmlInit_v2(void) { return (int)number("FAKE_NVML_INIT", 0); }
int nvmlInitWithFlags(unsigned flags) { (void)flags; return nvmlInit_v2(); }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) {
    switch (code) {
    case NOT_SUPPORTED: return "Not Supported";
    case 4: return "Insufficient Permissions";
    case 9: return "Driver Not Loaded";
    case GPU_LOST: return "GPU is lost";
    case 18: return "Driver/library version mismatch";
    default: return "Unknown Error";
    }
}
int nvmlDeviceGetCount_v2(unsigned *count) { *count = (unsigned)number("FAKE_NVML_GPUS", 1); return SUCCESS; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    if (index >= (unsigned)number("FAKE_NVML_GPUS", 1)) return INVALID;
    *device = (void *)(uintptr_t)(index + 1);
    return SUCCESS;
}
int nvmlDeviceGetUUID(void *device, char *text, unsigned size) {
    if (missing("uuid")) return NOT_SUPPORTED;
    snprintf(text, size, "GPU-fake-%u", index_of(device));
    return SUCCESS;
}
int nvmlDeviceGetName(void *device, char *text, unsigned size) {
    const char *name = getenv("FAKE_NVML_NAME");
    (void)device;
    snprintf(text, size, "%s", name ? name : "NVIDIA Fake 4000");
    return SUCCESS;
}
int nvmlDeviceGetArchitecture(void *device, unsigned *arch) {
    (void)device;
    *arch = (unsigned)number("FAKE_NVML_ARCH", 8);
    return SUCCESS;
}
enum { MOST_GPUS = 64, DEFAULT_LIMIT = 450000, LEAST_LIMIT = 100000 };

static unsigned limits[MOST_GPUS];

static void load_limits(void) {
    const char *path = getenv("FAKE_NVML_LIMITS");
    FILE *file = path ? fopen(path, "r") : NULL;
    for (int i = 0; i < MOST_GPUS; i++)
        if (path || !limits[i]) limits[i] = DEFAULT_LIMIT;
    for (int i = 0; file && i < MOST_GPUS && fscanf(file, "%u", &limits[i]) == 1; i++);
    if (file) fclose(file);
}

static int save_limits(void) {
    const char *path = getenv("FAKE_NVML_LIMITS");
    char pending[4096];
    if (!path) return SUCCESS;
    snprintf(pending, sizeof pending, "%s.new", path);
    FILE *file = fopen(pending, "w");
    if (!file) return 999;
    for (int i = 0; i < (int)number("FAKE_NVML_GPUS", 1); i++) fprintf(file, "%u\n", limits[i]);
    return fclose(file) || rename(pending, path) ? 999 : SUCCESS;
}

int nvmlDeviceGetPowerManagementLimit(void *device, unsigned *limit) {
    if (missing("limit")) return NOT_SUPPORTED;
    load_limits();
    *limit = limits[index_of(device)];
    return SUCCESS;
}
int nvmlDeviceGetPowerManagementDefaultLimit(void *device, unsigned *limit) {
    (void)device;
    if (missing("limit")) return NOT_SUPPORTED;
    *limit = DEFAULT_LIMIT;
    return SUCCESS;
}
int nvmlDeviceGetPowerManagementLimitConstraints(void *device, unsigned *least, unsigned *most) {
    (void)device;
    if (missing("limit")) return NOT_SUPPORTED;
    *least = LEAST_LIMIT;
    *most = DEFAULT_LIMIT;
    return SUCCESS;
}
int nvmlDeviceSetPowerManagementLimit(void *device, unsigned limit) {
    const char *deny = getenv("FAKE_NVML_DENY");
    unsigned step = (unsigned)number("FAKE_NVML_ROUND", 1);
    if (missing("limit")) return NOT_SUPPORTED;
    if (deny && !strcmp(deny, "permission")) return NO_PERMISSION;
    if (limit < LEAST_LIMIT || limit > DEFAULT_LIMIT) return INVALID;
    if (deny && !strcmp(deny, "silent")) return SUCCESS;
    load_limits();
    limits[index_of(device)] = limit / step * step;
    return save_limits();
}
int nvmlDeviceGetEnforcedPowerLimit(void *device, unsigned *limit) {
    unsigned most = (unsigned)number("FAKE_NVML_ENFORCED", DEFAULT_LIMIT);
    load_limits();
    *limit = limits[index_of(device)] < most ? limits[index_of(device)] : most;
    return SUCCESS;
}
int nvmlDeviceGetCurrentClocksEventReasons(void *device, unsigned long long *reasons) {
    (void)device;
    if (missing("reasons")) return NOT_SUPPORTED;
    *reasons = (unsigned long long)number("FAKE_NVML_REASONS", 0);
    return SUCCESS;
}
int nvmlDeviceGetIndex(void *device, unsigned *index) {
    *index = index_of(device);
    return SUCCESS;
}
typedef struct {
    char legacy[16];
    unsigned domain, bus, device, pci_device, pci_subsystem;
    char bus_id[32];
} pci_info;
int nvmlDeviceGetPciInfo_v3(void *device, pci_info *info) {
    memset(info, 0, sizeof *info);
    info->bus = index_of(device) + 1;
    return SUCCESS;
}
int nvmlDeviceGetMigMode(void *device, unsigned *current, unsigned *pending) {
    (void)device;
    *current = *pending = (unsigned)number("FAKE_NVML_MIG", 0);
    return SUCCESS;
}
int nvmlDeviceGetTemperature(void *device, unsigned sensor, unsigned *celsius) {
    (void)device; (void)sensor;
    *celsius = 61;
    return SUCCESS;
}
int nvmlDeviceGetClockInfo(void *device, unsigned type, unsigned *mhz) {
    (void)device;
    *mhz = type == 1 ? 1980 : 9501;
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(void *device, unsigned *rates) {
    if (missing("rates")) return NOT_SUPPORTED;
    rates[0] = 10 + 10 * index_of(device);
    rates[1] = 5;
    return SUCCESS;
}

static unsigned long long millijoules(void *device) {
    return (unsigned long long)((energy_at(refreshed(seconds_now())) * scale(device) + 12345.0) * 1e3);
}

int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *energy) {
    if (dead()) return GPU_LOST;
    if (missing("total") || number("FAKE_NVML_PERIOD", 100) == 0) return NOT_SUPPORTED;
    *energy = millijoules(device);
    return SUCCESS;
}
int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts) {
    if (dead()) return GPU_LOST;
    if (missing("usage")) return NOT_SUPPORTED;
    double window = number("FAKE_NVML_ARCH", 8) >= 7 ? 1.0 : 0.02;
    double refresh = floor(seconds_now() / 0.02) * 0.02;
    *milliwatts = (unsigned)(mean_watts(refresh, window) * scale(device) * 1e3);
    return SUCCESS;
}
int nvmlDeviceGetFieldValues(void *device, int count, field_value *values) {
    if (dead()) return GPU_LOST;
    if (missing("fields")) return NOT_SUPPORTED;
    const char *kind = getenv("FAKE_NVML_STAMP");
    int call = kind && !strcmp(kind, "call");
    for (int i = 0; i < count; i++) {
        field_value *v = &values[i];
        double s = seconds_now(), at = s;
        int module = v->scopeId == 1, gone = 0;
        v->nvmlReturn = SUCCESS;
        v->latencyUsec = 0;
        if (v->fieldId == 83) {
            at = refreshed(s);
            v->valueType = 3;
            v->value.ull = millijoules(device);
            gone = missing("total") || number("FAKE_NVML_PERIOD", 100) == 0;
        } else if (v->fieldId == 186) {
            at = floor(s / 0.05) * 0.05;
            v->valueType = 1;
            v->value.ui = (unsigned)(mean_watts(at, 0.025) * scale(device) * 1e3);
            gone = missing("instant") || (!module && missing("instant-gpu"));
        } else if (v->fieldId == 185) {
            at = floor(s / 0.1) * 0.1;
            v->valueType = 1;
            v->value.ui = (unsigned)(mean_watts(at, 1.0) * scale(device) * 1e3);
            gone = missing("average");
        } else {
            gone = 1;
        }
        if (gone) v->nvmlReturn = NOT_SUPPORTED;
        v->timestamp = (now_of(CLOCK_REALTIME) - (call ? 0 : (long long)((s - at) * 1e9))) / 1000;
    }
    return SUCCESS;
}

static unsigned pids(process_sample *samples, unsigned most) {
    const char *text = getenv("FAKE_NVML_PIDS");
    unsigned found = 0;
    while (text && *text) {
        char *end;
        unsigned pid = (unsigned)strtoul(text, &end, 10), sm = 0;
        if (*end == ':') sm = (unsigned)strtoul(end + 1, &end, 10);
        if (samples && found < most) {
            memset(&samples[found], 0, sizeof *samples);
            samples[found].pid = pid;
            samples[found].sm = sm;
            samples[found].stamp = (unsigned long long)(now_of(CLOCK_REALTIME) / 1000);
        }
        found++;
        text = *end == ',' ? end + 1 : end;
    }
    return found;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, process_info *infos) {
    process_sample samples[64];
    unsigned found = pids(samples, 64), room = *count;
    (void)device;
    *count = found;
    if (!found) return SUCCESS;
    if (!infos || room < found) return INSUFFICIENT_SIZE;
    for (unsigned i = 0; i < found; i++) {
        memset(&infos[i], 0, sizeof *infos);
        infos[i].pid = samples[i].pid;
        infos[i].memory = 1 << 20;
    }
    return SUCCESS;
}
int nvmlDeviceGetProcessUtilization(void *device, process_sample *samples, unsigned *count,
                                    unsigned long long since) {
    unsigned found = pids(NULL, 0), room = *count;
    (void)device; (void)since;
    *count = found;
    if (!found) return 6; /* not found: no samples */
    if (!samples || room < found) return INSUFFICIENT_SIZE;
    pids(samples, room);
    return SUCCESS;
}
