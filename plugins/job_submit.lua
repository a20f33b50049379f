-- Decides on each submission and modification of a job from the snapshot that gpuaasd publishes.
--
-- It reads the first line of one local file, and through its index the few lines about this user and project when the
-- first line names a new body. It opens no socket, starts no process and never waits: slurmctld runs it under its locks.
-- Whatever goes wrong (no snapshot, an old one, a broken one, an error in this very file) leaves the job as it came, to
-- Slurm's own limits, and tells the operator in slurmctld.log. docs/reference/hook.md says what is decided,
-- docs/design/0005-the-hook-reads-never-calls.md why.
-- Slurm is built against Lua 5.1 to 5.4, so this keeps to what all of them have.

local SNAPSHOT = GPUAAS_SNAPSHOT or "/run/gpuaas/snapshot" -- a test sets the global before it loads this file
local STALE_AFTER_S = 900 -- gpuaasd renews the first line at least once a minute; this is many missed
local COMPLAIN_EVERY_S = 60
-- Users submit in a row. More names would give Lua's collector so much to visit that the longest calls became longer.
local NAMES_KEPT = 16
local INDEX_ENTRY = 10 -- bytes: nine digits and a line's end
local LONGEST_REQUEST = 4096 -- bytes of one GPU request that are read; Slurm checks lengths only after this hook
local KST_S = 9 * 3600 -- days of grants are Korean days

-- Slurm's "not set", by width of the field (slurm/slurm.h)
local NO_VAL, NO_VAL16, INFINITE = 0xfffffffe, 0xfffe, 0xffffffff

-- Every sentence a user can see, in English and Korean. {words} are filled in; each names what was asked, the limit, and
-- what would be accepted. Particles in Korean are chosen so that any name fits before them.
local MESSAGES = {
  en = {
    no_project = "User {user} is in no project, so no GPU job is accepted; ask a cluster administrator.",
    not_member = "User {user} is not in project {account}; use one of your projects with --account: {projects}.",
    which_project = "User {user} is in {count} projects and none is the default; choose with --account: {projects}.",
    no_grant = "Project {project} has no GPU grant on this cluster; ask a cluster administrator for one.",
    many_partitions = "The job asks for partitions {partition}, but a GPU job runs in one share; "
      .. "leave --partition out or use --partition={offers}.",
    wrong_partition = "The job asks for partition {partition}, but project {project} has GPUs in {offers}; "
      .. "leave --partition out or use --partition={offers}.",
    wrong_model = "The job asks for GPU model {model}, but project {project} is granted {offers}; use --gpus={offer}:N.",
    two_models = "The job asks for GPU models {models}, but a job uses one model; use --gpus={offer}:N.",
    unreadable = "The GPU request {request} cannot be read; write --gpus=N, --gpus-per-node=N or --gres=gpu:N.",
    sockets = "The job asks for --gpus-per-socket without --sockets-per-node; use --gpus-per-node=N instead.",
    expired = "The grant of project {project} for {model} ended on {ends}; ask a cluster administrator to renew it.",
    future = "The grant of project {project} for {model} starts on {starts}; submit again from that day on.",
    no_gpu = "The job asks for no GPU, but every node of partition {partition} has {per_node}; "
      .. "ask for at least one with --gpus=1, or use a partition without GPUs.",
    exclusive = "The job asks for {gpus} on {nodes} with --exclusive, which takes all {per_node} GPUs of a node; "
      .. "ask for all with --gpus-per-node={per_node}, or leave --exclusive out.",
    whole_nodes = "The job asks for {gpus} on {nodes}, but a job of several nodes takes whole nodes of {per_node} GPUs; "
      .. "use {offer}.",
    max_per_job = "The job asks for {gpus}, but project {project} allows {limit} GPUs a job; use at most --gpus={offer}.",
    fits_neither = "The job asks for {gpus}, but one of project {project} runs wholly as guaranteed ({guaranteed}) "
      .. "or wholly as burst ({burst}); {offer}.",
    wrong_qos = "The job asks for QOS {qos}, but project {project} has {offers}; use {offer}.",
    no_burst = "The job asks for --qos=burst, but project {project} may not borrow; {offer}.",
    wall_time = "The job asks for a wall time of {time}, but project {project} allows {limit} in partition {partition}; "
      .. "use at most --time={limit}.",
    budget = "The job asks for {total} GPU-hours ({sum}), but project {project} has {left} of its budget left; {offer}.",
    waits = "The job is accepted but waits: it asks for {gpus} as {sides}, and of project {project}'s {limit} guaranteed "
      .. "GPUs {used} are in use, and {burst} more as burst; right now {now_guaranteed} would start as guaranteed and "
      .. "{now_burst} as burst; {offer}.",
    waits_burst = "The job is accepted but waits: it asks for {gpus} as burst, and project {project}, for which no GPU is "
      .. "guaranteed, uses {burst} as burst; right now {now_burst} would start; {offer}.",
    -- parts of sentences
    gpu = "{n} GPU",
    gpus = "{n} GPUs",
    node = "{n} node",
    nodes = "{n} nodes",
    none = "none",
    no_bound = "no bound",
    unlimited = "unlimited",
    empty = "(empty)",
    either = "{one}, or {other}",
    both = "{one} and {other}",
    use = "use {what}",
    this_size = "this size with --qos={side}",
    smaller = "at most --gpus={gpus} with --qos={side}",
    burst_this_size = "this size with --qos=burst (preemptible)",
    burst_smaller = "at most --gpus={gpus} with --qos=burst (preemptible)",
    larger_grant = "ask for a larger grant",
    less_time = "use at most --time={time} at this size, or fewer GPUs",
    more_budget = "ask a cluster administrator for more",
    time_left_out = ", the longest allowed as --time was left out",
    array_tasks = " x {tasks} array tasks",
    earlier_parts = " + {hours} GPU-hours of earlier components",
    to_start_now = "to start now {what}",
    nothing_starts = "no smaller size starts now, so leave it in the queue",
  },
  ko = {
    no_project = "사용자 {user} 계정은 참여 중인 과제가 없어 GPU 작업을 제출할 수 없습니다. 클러스터 관리자에게 문의하십시오.",
    not_member = "사용자 {user} 계정은 과제 {account}의 참여자가 아닙니다. --account에 참여 중인 과제를 지정하십시오: {projects}.",
    which_project = "사용자 {user} 계정은 과제 {count}개에 참여 중이고 기본 과제가 없습니다. --account로 하나를 지정하십시오: {projects}.",
    no_grant = "과제 {project}에는 이 클러스터의 GPU 배정이 없습니다. 클러스터 관리자에게 배정을 요청하십시오.",
    many_partitions = "파티션 {partition}에 요청하셨으나 GPU 작업은 한 파티션에서만 실행됩니다. "
      .. "--partition을 빼거나 --partition={offers} 옵션을 쓰십시오.",
    wrong_partition = "파티션 {partition}에 요청하셨으나 과제 {project}의 GPU는 {offers}에 있습니다. "
      .. "--partition을 빼거나 --partition={offers} 옵션을 쓰십시오.",
    wrong_model = "GPU 모델 {model}을(를) 요청하셨으나 과제 {project}에 배정된 모델은 {offers}입니다. "
      .. "--gpus={offer}:N 형식으로 요청하십시오.",
    two_models = "GPU 모델 {models}을(를) 함께 요청하셨으나 한 작업에는 한 모델만 쓸 수 있습니다. "
      .. "--gpus={offer}:N 형식으로 요청하십시오.",
    unreadable = "GPU 요청 {request}을(를) 해석할 수 없습니다. --gpus=N, --gpus-per-node=N 또는 --gres=gpu:N 형식으로 쓰십시오.",
    sockets = "--gpus-per-socket을 --sockets-per-node 없이 요청하셨습니다. 대신 --gpus-per-node=N 옵션을 쓰십시오.",
    expired = "과제 {project}의 {model} 배정 기간은 {ends}에 끝났습니다. 클러스터 관리자에게 연장을 요청하십시오.",
    future = "과제 {project}의 {model} 배정 기간은 {starts}에 시작됩니다. 그날 이후에 다시 제출하십시오.",
    no_gpu = "GPU를 요청하지 않으셨으나 파티션 {partition}의 모든 노드에는 GPU가 {per_node}개씩 있습니다. "
      .. "--gpus=1 이상을 요청하거나 GPU가 없는 파티션을 쓰십시오.",
    exclusive = "{nodes}에 {gpus}를 --exclusive로 요청하셨으나 이 옵션은 노드의 GPU {per_node}개를 모두 차지합니다. "
      .. "--gpus-per-node={per_node} 옵션으로 모두 요청하거나 --exclusive를 빼십시오.",
    whole_nodes = "{nodes}에 {gpus}를 요청하셨으나 여러 노드를 쓰는 작업은 GPU {per_node}개인 노드를 통째로 써야 합니다. "
      .. "{offer} 옵션을 쓰십시오.",
    max_per_job = "{gpus}를 요청하셨으나 과제 {project}의 작업당 한도는 GPU {limit}개입니다. --gpus={offer} 이하로 요청하십시오.",
    fits_neither = "{gpus}를 요청하셨으나 과제 {project}의 작업은 전부 보장분({guaranteed}) 또는 전부 버스트({burst})로만 "
      .. "실행됩니다. {offer}.",
    wrong_qos = "QOS {qos}을(를) 요청하셨으나 과제 {project}의 QOS는 {offers}입니다. {offer} 옵션을 쓰십시오.",
    no_burst = "--qos=burst로 요청하셨으나 과제 {project}에는 차용이 허용되지 않습니다. {offer}.",
    wall_time = "실행 시간 {time}을(를) 요청하셨으나 과제 {project}의 파티션 {partition} 한도는 {limit}입니다. "
      .. "--time={limit} 이하로 요청하십시오.",
    budget = "{total} GPU시간({sum})을 요청하셨으나 과제 {project}의 남은 예산은 {left} GPU시간입니다. {offer}.",
    waits = "작업은 접수되었으나 대기합니다. {gpus}를 {sides}로 요청하셨고, 과제 {project}의 보장 GPU {limit}개 중 {used}개를, "
      .. "버스트로 {burst}개를 사용 중입니다. 지금 바로 시작할 수 있는 크기는 보장분 {now_guaranteed}, 버스트 {now_burst}입니다. {offer}.",
    waits_burst = "작업은 접수되었으나 대기합니다. {gpus}를 버스트로 요청하셨고, 보장 GPU가 없는 과제 {project}은(는) 버스트로 GPU "
      .. "{burst}개를 사용 중입니다. 지금 바로 시작할 수 있는 크기는 {now_burst}입니다. {offer}.",
    gpu = "GPU {n}개",
    gpus = "GPU {n}개",
    node = "노드 {n}개",
    nodes = "노드 {n}개",
    none = "불가",
    no_bound = "한도 없음",
    unlimited = "무제한",
    empty = "(빈 값)",
    either = "{one} 또는 {other}",
    both = "{one}, {other}",
    use = "{what} 옵션으로 요청하십시오",
    this_size = "같은 크기에 --qos={side}",
    smaller = "--gpus={gpus} 이하에 --qos={side}",
    burst_this_size = "같은 크기에 --qos=burst(선점될 수 있음)",
    burst_smaller = "--gpus={gpus} 이하에 --qos=burst(선점될 수 있음)",
    larger_grant = "더 큰 배정을 신청하십시오",
    less_time = "같은 크기라면 --time={time} 이하로, 아니면 GPU 수를 줄여 요청하십시오",
    more_budget = "클러스터 관리자에게 예산 추가를 요청하십시오",
    time_left_out = ", --time을 생략하여 허용된 최대 시간 적용",
    array_tasks = " x 배열 작업 {tasks}개",
    earlier_parts = " + 앞선 구성 작업 {hours} GPU시간",
    to_start_now = "지금 시작하려면 {what}",
    nothing_starts = "더 작은 크기로도 지금은 시작할 수 없으니 대기열에 그대로 두십시오",
  },
}

-- Whose call this is, and the language, found out when there is something to say: Slurm builds a table of the whole
-- environment for it.
local speaking_to, language = nil, nil

local function language_of(job)
  local ok, environment = pcall(function()
    return job.environment
  end)
  if not ok or type(environment) ~= "table" then
    return "en"
  end
  for _, name in ipairs({ "LC_ALL", "LC_MESSAGES", "LANG" }) do
    local value = environment[name]
    if type(value) == "string" and value ~= "" then
      return string.match(value .. "_", "^ko[_.@]") and "ko" or "en"
    end
  end
  return "en"
end

------------------------------------------------------------------------------------------------------------------------
-- Words and numbers

-- Any number as an integer's text. "%d" raises for what no integer holds; this never does.
local function count_text(n)
  return string.format("%.0f", n)
end

local function say(key, words)
  language = language or language_of(speaking_to)
  return (string.gsub(MESSAGES[language][key], "{([%w_]+)}", function(word)
    local value = words[word]
    return type(value) == "number" and count_text(value) or tostring(value)
  end))
end

-- Somebody's text made safe to print: no control characters, no terminal escapes, not long.
local function shown(text, most)
  text = string.gsub(string.sub(tostring(text), 1, most or 60), "[^%w%p ]", "?")
  return text == "" and say("empty", {}) or text
end

-- A number of "gpu" or "node".
local function plural(n, word)
  return say(n == 1 and word or word .. "s", { n = n })
end

-- Minutes as Slurm writes a time limit: D-HH:MM:00.
local function time_text(minutes)
  if minutes >= INFINITE then
    return say("unlimited", {})
  end
  local hours = math.floor(minutes / 60)
  return string.format("%.0f-%02.0f:%02.0f:00", math.floor(hours / 24), hours % 24, minutes % 60)
end

local function hours_text(minutes)
  return (string.gsub(string.format("%.1f", minutes / 60), "%.0$", ""))
end

local function day_text(epoch)
  return os.date("!%Y-%m-%d", epoch + KST_S)
end

-- A refusal is raised as a table and caught at the door, so that rules need not pass it along.
local function refuse(key, words)
  error({ refusal = say(key, words), key = key }, 0)
end

local function joined(list, by)
  return table.concat(list, by or ", ")
end

-- A number field, or nil where Slurm says "not set".
local function set(value, unset)
  value = tonumber(value)
  if not value or value ~= value or value == unset then
    return nil
  end
  return value
end

-- The same for counts of things, where 0 says "not set" as well.
local function positive(value, unset)
  value = set(value, unset)
  return value and value > 0 and math.floor(value) or nil
end

local function text(value)
  return type(value) == "string" and value ~= "" and value or nil
end

------------------------------------------------------------------------------------------------------------------------
-- Snapshot

-- The head of the snapshot in force, and what was looked up in it last: { hash=, partitions=, bypass=, limited=, gate=, segments=,
-- buckets=, index=, records= (where they begin), found= { kind = { name to what is known } }, kept= (how many) }. Only `file`, open
-- during a call, is of this call alone.
local current = nil
local complained_at = nil

local function complain(why)
  local now = os.time()
  if not complained_at or now - complained_at >= COMPLAIN_EVERY_S or now < complained_at then
    complained_at = now
    slurm.log_error("%s", "gpuaas: Slurm's own limits alone decide: " .. shown(why, 300))
  end
end

local function fields_of(line)
  local fields = {}
  for field in string.gmatch(line, "[^\t]+") do -- none is empty
    fields[#fields + 1] = field
  end
  return fields
end

local function number_of(field)
  return assert(tonumber(field), "not a number")
end

-- "-" says there is no such limit.
local function limit_of(field)
  return field ~= "-" and number_of(field) or nil
end

local HEAD = {
  cluster = function(into, f)
    local here = slurm.CLUSTER_NAME
    assert(not here or here == f[2], "another cluster's")
    into.cluster = f[2]
  end,
  partition = function(into, f)
    into.partitions[f[2]] =
      { model = f[3], per_node = number_of(f[4]), max_minutes = limit_of(f[5]), gpus = f[6] and limit_of(f[6]) }
  end,
  gate = function(into, f)
    into.gate = assert(f[2], "too short")
    into.segments = f[3] == "segments"
  end,
  bypass = function(into, f)
    into.bypass[f[2]] = true
  end,
  limited = function(into, f)
    into.limited[#into.limited + 1] = { largest = number_of(f[2]), nodes = assert(f[3], "too short") }
  end,
  index = function(into, f)
    into.buckets = number_of(f[2])
  end,
}

local function grant_of(snap, f)
  local share = assert(snap.partitions[f[5]], "without a partition it names")
  local borrow = limit_of(f[8])
  local grant = {
    project = f[2],
    guaranteed_qos = f[3],
    burst_qos = f[4] ~= "-" and f[4] or nil,
    partition = f[5],
    model = f[6],
    guaranteed = number_of(f[7]),
    max_per_job = limit_of(f[9]),
    max_minutes = limit_of(f[10]),
    budget = limit_of(f[11]),
    starts = number_of(f[12]),
    ends = number_of(f[13]),
    state = assert(f[14], "too short"),
  }
  if f[15] then -- what the project uses now, where the daemon knows
    grant.standing = { guaranteed = number_of(f[15]), burst = number_of(f[16]), may_borrow = number_of(f[17]) }
  end
  -- guaranteed and burst use together; never more than there is
  grant.ceiling = math.min(grant.guaranteed + (grant.burst_qos and (borrow or math.huge) or 0), share.gpus or math.huge)
  return grant
end

-- The bucket of a name, as `verdict.bucket_of` reckons it. Every intermediate result is an integer that a double holds.
local function bucket_of(snap, key)
  local hash, byte = 0, string.byte
  for at = 1, #key do
    hash = (hash * 256 + byte(key, at)) % 2147483647
  end
  return hash * 1000003 % 2147483647 % snap.buckets
end

-- Where the records of a bucket and of the next one begin, from the first record on.
local function bounds_of(snap, bucket)
  local first, stop = string.match(snap.index, "^(%d+)\n(%d+)\n", bucket * INDEX_ENTRY + 1)
  return number_of(first), number_of(stop)
end

-- The records of a kind about a name: one short read at any size.
local function find(snap, kind, name)
  if string.find(name, "%c") then
    return {}
  end
  local key = kind .. "\t" .. name
  local first, stop = bounds_of(snap, bucket_of(snap, key))
  snap.file:seek("set", snap.records + first - 1) -- with the line's end before them, so that each begins behind one
  local lines = snap.file:read(stop - first + 1)
  assert(lines and #lines == stop - first + 1, "cut short")
  local prefix, records = "\n" .. key .. "\t", {}
  local start = string.find(lines, prefix, 1, true)
  while start do
    local ending = string.find(lines, "\n", start + 1, true)
    records[#records + 1] = fields_of(string.sub(lines, start + 1, ending - 1))
    start = string.find(lines, prefix, ending, true)
  end
  return records
end

-- Runs a reading of records; what cannot be read leaves this job to Slurm.
local function reading(action, ...)
  local ok, result = pcall(action, ...)
  if not ok then
    error({ broken = tostring(result) }, 0)
  end
  return result
end

local function member_from(_, records)
  local f = records[1]
  local projects = assert(f[4], "too short")
  local default = f[3] ~= "-" and f[3] or not string.find(projects, ",", 1, true) and projects or nil
  return { default = default, projects = projects }
end

local function grants_from(snap, records)
  local grants = {}
  for at, f in ipairs(records) do
    grants[at] = grant_of(snap, f)
  end
  return grants
end

local function read_about(snap, kind, name, make)
  local records = find(snap, kind, name)
  return #records > 0 and make(snap, records) or nil
end

-- What the snapshot says about a name, nil for nothing: looked up once for the few names of late.
local function known(snap, kind, name, make)
  local value = snap.found[kind][name]
  if not value then
    value = reading(read_about, snap, kind, name, make)
    if snap.kept >= NAMES_KEPT then
      snap.found, snap.kept = { member = {}, project = {} }, 0
    end
    if value then
      snap.found[kind][name], snap.kept = value, snap.kept + 1
    end
  end
  return value
end

local function member_of(snap, user)
  return known(snap, "member", user, member_from)
end

local function grants_of(snap, project)
  return known(snap, "project", project, grants_from)
end

-- Reads the head, and where the rest is.
local function read_head(file, hash)
  local found = { member = {}, project = {} }
  local into = { hash = hash, partitions = {}, bypass = { root = true }, limited = {}, found = found, kept = 0 }
  for line in file:lines() do
    local f = fields_of(line)
    -- a kind this version does not know is of a newer daemon and no reason to stop
    if HEAD[f[1]] then
      HEAD[f[1]](into, f)
    end
    if into.buckets then
      break
    end
  end
  assert(into.cluster, "without its cluster")
  assert(into.buckets, "without its index")
  into.index = file:read((into.buckets + 1) * INDEX_ENTRY) or "" -- one string, so nothing for Lua's collector to visit
  into.records = file:seek()
  local _, last = bounds_of(into, into.buckets - 1)
  assert(file:seek("end") == into.records + last, "cut short")
  return into
end

-- The snapshot to decide by, whose `file` the caller closes, or nil and why there is none.
local function snapshot()
  local file = io.open(SNAPSHOT, "r")
  if not file then
    return nil, "there is no snapshot at " .. SNAPSHOT .. "; is gpuaasd running?"
  end
  local head = file:read("*l")
  local generated, hash = string.match(head or "", "^gpuaas%-snapshot 3 (%d+) (%x+)$")
  if not generated then
    file:close()
    return nil, "the snapshot's first line cannot be read"
  end
  local age = os.time() - tonumber(generated)
  if age > STALE_AFTER_S then
    file:close()
    return nil, "the snapshot is " .. count_text(age) .. " s old; is gpuaasd running?"
  end
  if not current or current.hash ~= hash then
    local ok, result = pcall(read_head, file, hash)
    current = ok and result or nil
    if not ok then
      file:close()
      return nil, "the snapshot is " .. tostring(result)
    end
  end
  current.file = file
  return current
end

------------------------------------------------------------------------------------------------------------------------
-- Reading a request for GPUs

-- One element of a TRES list: what it asks of GPUs, {} where it is about something else, nil where it cannot be read.
-- Both "gpu:b200:8" and "gres/gpu:b200=8" are written; a type alone asks for one.
local SCALE = { [""] = 1, k = 1024, m = 1024 ^ 2, g = 1024 ^ 3 }

local function gpus_of(token)
  local rest = string.match(token, "^gres[/:]gpu(.*)$") or string.match(token, "^gpu(.*)$")
  if not rest then
    return not string.find(token, "gpu", 1, true) and {} or nil
  end
  if rest == "" then
    return { count = 1 }
  end
  local model, number, scale = string.match(rest, "^:([%w_.-]+)[:=](%d+)([kKmMgG]?)$")
  if not number then
    number, scale = string.match(rest, "^[:=](%d+)([kKmMgG]?)$")
  end
  if number then
    return { count = tonumber(number .. ".0") * SCALE[string.lower(scale)], model = model }
  end
  model = string.match(rest, "^:([%a_][%w_.-]*)$")
  return model and { count = 1, model = model } or nil
end

-- Reads one TRES list into `request`: its GPUs under `key`, models under `models`.
local function read_list(request, key, list)
  list = text(list)
  if not list then
    return
  end
  if #list > LONGEST_REQUEST then
    refuse("unreadable", { request = shown(list) })
  end
  for token in string.gmatch(list, "[^,]+") do
    local asked = gpus_of(token)
    if not asked or (asked.count and request[key]) then
      refuse("unreadable", { request = shown(list) })
    end
    if asked.count then
      request[key] = asked.count
    end
    if asked.model and asked.count > 0 then
      local model = string.lower(asked.model)
      if request.model and request.model ~= model then
        request.models = { request.model, model }
      end
      request.model = model
    end
  end
end

local KINDS = { "per_job", "per_node", "per_socket", "per_task" }
local LISTS = {} -- kind to the field of the job
for _, kind in ipairs(KINDS) do
  LISTS[kind] = "tres_" .. kind
end

-- What a job asks, from a function that gives a field's value.
local function read_request(field)
  local request = {
    min_nodes = positive(field("min_nodes"), NO_VAL) or 1,
    max_nodes = positive(field("max_nodes"), NO_VAL),
    tasks = positive(field("num_tasks"), NO_VAL),
    tasks_per_node = positive(field("ntasks_per_node"), NO_VAL16),
    minutes = set(field("time_limit"), NO_VAL),
    exclusive = set(field("shared"), NO_VAL16) == 0,
  }
  for _, kind in ipairs(KINDS) do
    read_list(request, kind, field(LISTS[kind]))
  end
  if request.per_socket then
    local sockets = positive(field("sockets_per_node"), NO_VAL16)
    if not sockets then
      refuse("sockets", {})
    end
    request.per_node = math.max(request.per_node or 0, request.per_socket * sockets)
  end
  local tasks_per_gpu = positive(field("ntasks_per_gpu"), NO_VAL16)
  if tasks_per_gpu and request.tasks and not (request.per_job or request.per_node or request.per_task) then
    request.per_job = math.floor(request.tasks / tasks_per_gpu) -- as Slurm derives it
    request.derived = true
  end
  return request
end

-- GPUs and nodes of the job at its largest. Where the user left the number of nodes open, the fewest that hold the GPUs.
local function size_up(request, per_node)
  local nodes = request.max_nodes or request.min_nodes
  if not request.max_nodes and request.tasks and request.tasks_per_node then
    nodes = math.max(nodes, math.ceil(request.tasks / request.tasks_per_node))
  end
  local total = request.per_job or 0
  if request.per_task and request.tasks then
    total = math.max(total, request.per_task * request.tasks)
  end
  if total > 0 and not (request.per_node and request.max_nodes) then
    local node_share = math.max(math.min(request.per_node or per_node, per_node), 1)
    nodes = math.max(request.min_nodes, math.ceil(total / node_share))
    if request.max_nodes then
      nodes = math.min(nodes, request.max_nodes)
    end
  end
  if request.per_task and not request.tasks then
    total = math.max(total, request.per_task * (request.tasks_per_node or 1) * nodes)
  end
  if request.per_node then
    total = math.max(total, request.per_node * nodes)
  end
  request.nodes, request.gpus = nodes, total
  -- left open, Slurm might spread a total over more nodes than were counted
  request.pinned = not request.max_nodes or not request.per_node
end

-- Number of tasks of an array such as "0-15:2%4,20". What runs at once (%) does not change what is spent in the end.
local function array_tasks(inx)
  inx = text(inx)
  if not inx or #inx > LONGEST_REQUEST then
    return 1
  end
  local tasks = 0
  for part in string.gmatch(string.gsub(inx, "%%.*$", ""), "[^,]+") do
    local first, last, step = string.match(part, "^(%d+)%-(%d+):?(%d*)$")
    if first then
      step = math.max(tonumber(step) or 1, 1)
      tasks = tasks + math.max(math.floor((tonumber(last) - tonumber(first)) / step) + 1, 0)
    else
      tasks = tasks + 1
    end
  end
  return math.max(tasks, 1)
end

------------------------------------------------------------------------------------------------------------------------
-- Rules

local function the_project(snap, user, account)
  local member = member_of(snap, user)
  if not member then
    refuse("no_project", { user = shown(user) })
  end
  account = account and string.lower(account)
  -- as text, because somebody may be in a hundred projects
  local with_commas, spaced, commas = "," .. member.projects .. ",", string.gsub(member.projects, ",", ", ")
  if account and (string.find(account, ",", 1, true) or not string.find(with_commas, "," .. account .. ",", 1, true)) then
    refuse("not_member", { user = shown(user), account = shown(account), projects = spaced })
  end
  local project = account or member.default
  if not project then
    refuse("which_project", { user = shown(user), count = commas + 1, projects = spaced })
  end
  return project
end

local function values_of(grants, key)
  local values, seen = {}, {}
  for _, grant in ipairs(grants) do
    if not seen[grant[key]] then
      seen[grant[key]] = true
      values[#values + 1] = grant[key]
    end
  end
  return values
end

local function only(grants, key, value)
  local kept = {}
  for _, grant in ipairs(grants) do
    if not value or grant[key] == value then
      kept[#kept + 1] = grant
    end
  end
  return kept
end

local function state_of(grant, now)
  if grant.state == "expired" or now >= grant.ends then
    return "expired"
  end
  return now < grant.starts and "future" or "active"
end

-- The grant a job runs under: in its partition, of its model, and in force today.
local function the_grant(snap, project, partition, request)
  local grants = grants_of(snap, project)
  if not grants then
    refuse("no_grant", { project = project })
  end
  if request.models then
    refuse("two_models", { models = shown(joined(request.models)), offer = grants[1].model })
  end
  local here = only(grants, "partition", partition)
  if #here == 0 then
    local offers = joined(values_of(grants, "partition"))
    refuse("wrong_partition", { partition = shown(partition), project = project, offers = offers })
  end
  local fitting = only(here, "model", request.model)
  if #fitting == 0 then
    local offers = joined(values_of(here, "model"))
    refuse("wrong_model", { model = shown(request.model), project = project, offers = offers, offer = here[1].model })
  end
  local now = os.time()
  local best, state = fitting[1], state_of(fitting[1], now)
  for _, grant in ipairs(fitting) do
    local its = state_of(grant, now)
    if its == "active" then
      return grant
    elseif its == "future" and (state == "expired" or grant.starts < best.starts) then
      best, state = grant, its
    end
  end
  return refuse(state, {
    project = project,
    model = best.model,
    starts = day_text(best.starts),
    ends = day_text(best.ends - 1),
  })
end

local function check_shape(request, grant, per_node)
  if request.gpus < 1 then
    refuse("no_gpu", { partition = grant.partition, per_node = per_node })
  end
  local whole = request.gpus == request.nodes * per_node and (request.per_node or per_node) == per_node
  if request.exclusive and not whole then
    local nodes, gpus = plural(request.nodes, "node"), plural(request.gpus, "gpu")
    refuse("exclusive", { per_node = per_node, gpus = gpus, nodes = nodes })
  end
  if (request.nodes > 1 or request.gpus > per_node) and not whole then
    local full = math.max(math.floor(request.gpus / per_node), 1)
    local offer = full > 1 and string.format("--nodes=%s --gpus-per-node=%s", count_text(full), count_text(per_node))
      or "--nodes=1 --gpus=" .. count_text(math.min(request.gpus, per_node))
    local nodes, gpus = plural(request.nodes, "node"), plural(request.gpus, "gpu")
    refuse("whole_nodes", { gpus = gpus, nodes = nodes, per_node = per_node, offer = offer })
  end
end

-- The largest whole job within a number of GPUs.
local function largest(gpus, per_node)
  return gpus > per_node and gpus - gpus % per_node or gpus
end

-- The largest jobs that could ever run on each side, nil where the side is closed.
local function caps_of(grant)
  return { guaranteed = math.min(grant.guaranteed, grant.ceiling), burst = grant.burst_qos and grant.ceiling or nil }
end

-- Sizes to write instead, for GPUs at most by side; nil where there is none.
local function offers_of(gpus, most, per_node)
  local offer
  for _, side in ipairs({ "guaranteed", "burst" }) do
    if (most[side] or 0) >= 1 then
      local key = (side == "burst" and "burst_" or "") .. (gpus <= most[side] and "this_size" or "smaller")
      local one = say(key, { side = side, gpus = largest(most[side], per_node) })
      offer = offer and say("either", { one = offer, other = one }) or one
    end
  end
  return offer
end

-- The sides for the job: every asked one that holds it whole. Nothing asked means guaranteed.
local function the_sides(grant, per_node, asked, with_others)
  local cap = caps_of(grant)
  local side_of = { guaranteed = "guaranteed", burst = "burst", [grant.guaranteed_qos] = "guaranteed" }
  if grant.burst_qos then
    side_of[grant.burst_qos] = "burst"
  end
  local fitting = {}
  for name in string.gmatch(asked or "guaranteed", "[^,]+") do
    local side = side_of[name]
    if not side then
      local offers, offer = grant.guaranteed_qos, "--qos=guaranteed"
      if grant.burst_qos then
        offers = say("both", { one = offers, other = grant.burst_qos })
        offer = say("either", { one = offer, other = "--qos=burst" })
      end
      refuse("wrong_qos", { qos = shown(name), project = grant.project, offers = offers, offer = offer })
    elseif not cap[side] then
      local offer = offers_of(with_others, cap, per_node)
      refuse("no_burst", {
        project = grant.project,
        offer = offer and say("use", { what = offer }) or say("larger_grant", {}),
      })
    end
    if with_others <= cap[side] then
      fitting[#fitting + 1] = side
    end
  end
  if #fitting > 0 then
    return fitting
  end
  local offer = offers_of(with_others, cap, per_node)
  return refuse("fits_neither", {
    gpus = plural(with_others, "gpu"),
    project = grant.project,
    guaranteed = plural(cap.guaranteed, "gpu"),
    burst = cap.burst and (cap.burst < math.huge and plural(cap.burst, "gpu") or say("no_bound", {})) or say("none", {}),
    offer = offer and say("use", { what = offer }) or say("larger_grant", {}),
  })
end

-- What to tell of a job that is accepted but cannot start now; nil where it can, or where nobody knows.
local function advice(verdict)
  local grant, gpus = verdict.grant, verdict.gpus
  local standing = grant.standing
  if not standing then
    return nil
  end
  local room = math.max(grant.ceiling - standing.guaranteed - standing.burst, 0)
  local now = { guaranteed = math.min(math.max(grant.guaranteed - standing.guaranteed, 0), room) }
  now.burst = grant.burst_qos and math.min(standing.may_borrow, room) or nil
  for _, side in ipairs(verdict.sides) do
    if gpus <= (now[side] or 0) then
      return nil
    end
  end
  local offer = offers_of(gpus, now, verdict.per_node)
  return say(grant.guaranteed > 0 and "waits" or "waits_burst", {
    gpus = plural(gpus, "gpu"),
    sides = table.concat(verdict.sides, ","),
    project = grant.project,
    limit = grant.guaranteed,
    used = standing.guaranteed,
    burst = standing.burst,
    now_guaranteed = plural(now.guaranteed, "gpu"),
    now_burst = plural(now.burst or 0, "gpu"),
    offer = offer and say("to_start_now", { what = say("use", { what = offer }) }) or say("nothing_starts", {}),
  })
end

local function refuse_budget(grant, gpu_minutes, sum, rate)
  local minutes = math.floor(math.max(grant.budget, 0) / rate)
  refuse("budget", {
    total = hours_text(gpu_minutes),
    sum = sum,
    project = grant.project,
    left = hours_text(math.max(grant.budget, 0)),
    offer = minutes >= 1 and say("less_time", { time = time_text(minutes) }) or say("more_budget", {}),
  })
end

-- Components of heterogeneous jobs arrived so far, by user: they come one by one, offsets 0, 1, 2, and start together.
local earlier = {}

local function other_components(user, offset, grant)
  local before = offset and offset > 0 and earlier[user]
  if before and before.next == offset and before.project == grant.project then
    return before.gpus, before.gpu_minutes
  end
  return 0, 0
end

-- All rules for one request. Returns what the job's fields become.
local function decide(snap, user, account, partition, qos, request, tasks, offset)
  local project = the_project(snap, user, account)
  local grant = the_grant(snap, project, partition, request)
  local share = snap.partitions[grant.partition]
  size_up(request, share.per_node)
  check_shape(request, grant, share.per_node)

  local gpus_before, minutes_before = other_components(user, offset, grant)
  local gpus = request.gpus + gpus_before
  if grant.max_per_job and gpus > grant.max_per_job then
    local offer = largest(grant.max_per_job, share.per_node)
    refuse("max_per_job", { gpus = plural(gpus, "gpu"), project = project, limit = grant.max_per_job, offer = offer })
  end
  local sides = the_sides(grant, share.per_node, qos, gpus)

  local longest = math.min(grant.max_minutes or math.huge, share.max_minutes or math.huge)
  local minutes = request.minutes or (longest < math.huge and longest or nil)
  if minutes and minutes > longest then
    refuse("wall_time", {
      time = time_text(minutes),
      project = project,
      limit = time_text(longest),
      partition = grant.partition,
    })
  end
  local gpu_minutes = request.gpus * (minutes or 0) * tasks
  if grant.budget and gpu_minutes + minutes_before > grant.budget then
    local sum = plural(request.gpus, "gpu") .. " x " .. time_text(minutes or 0)
    sum = sum .. (request.minutes and "" or say("time_left_out", {}))
    sum = sum .. (tasks > 1 and say("array_tasks", { tasks = tasks }) or "")
    sum = sum .. (minutes_before > 0 and say("earlier_parts", { hours = hours_text(minutes_before) }) or "")
    refuse_budget(grant, gpu_minutes + minutes_before, sum, gpus * tasks)
  end
  if offset then
    earlier[user] = { next = offset + 1, project = project, gpus = gpus, gpu_minutes = gpu_minutes + minutes_before }
  end
  local names = {}
  for at, side in ipairs(sides) do
    names[at] = grant[side .. "_qos"]
  end
  return {
    account = project,
    partition = grant.partition,
    qos = joined(names, ","),
    minutes = minutes,
    model = grant.model,
    grant = grant,
    sides = sides,
    gpus = gpus,
    per_node = share.per_node,
  }
end

-- Whether a job is for us: its partition, or the default one where none is named, is a share of ours.
local function is_ours(snap, partition, account, user, part_list)
  if not partition then
    if account and grants_of(snap, string.lower(account)) or not account and member_of(snap, user) then
      return true
    end
    for name, part in pairs(part_list or {}) do
      if part.flag_default == 1 then
        return snap.partitions[name] ~= nil
      end
    end
    return true
  end
  local ours, names = 0, 0
  for name in string.gmatch(partition, "[^,]+") do
    names = names + 1
    ours = ours + (snap.partitions[name] and 1 or 0)
  end
  if ours > 0 and names > 1 then
    local offers = {}
    for name in string.gmatch(partition, "[^,]+") do
      offers[#offers + 1] = snap.partitions[name] and name or nil
    end
    refuse("many_partitions", { partition = shown(partition), offers = offers[1] })
  end
  return ours > 0
end

-- A TRES list with its GPUs named by model.
local function typed(list, model)
  return (string.gsub(list, "[^,]+", function(token)
    local asked = gpus_of(token)
    return asked and asked.count and string.format("gres/gpu:%s:%s", model, count_text(asked.count)) or nil
  end))
end

local function put(job, field, old, new)
  if old ~= new then
    job[field] = new
  end
end

------------------------------------------------------------------------------------------------------------------------
-- The two calls of slurmctld

-- Names by uid, for a minute: Slurm asks the name service each time, which is most of what a call here would cost.
local names, names_since = {}, 0

local function name_of(job)
  local uid, now = set(job.user_id, NO_VAL), os.time()
  if not uid then
    return text(job.user_name)
  end
  if now - names_since >= 60 or now < names_since then
    names, names_since = {}, now
  end
  names[uid] = names[uid] or text(job.user_name)
  return names[uid]
end

-- Whether a list of licences names the gate's.
local function asks(licences, gate)
  for one in string.gmatch(licences or "", "[^,|]+") do
    if string.match(one, "^%s*([^:=%s]*)") == gate then
      return true
    end
  end
  return false
end

-- A guaranteed job waits for gpuaasd at the placement gate, which decides who gives way before Slurm's own preemption.
-- Arrays and heterogeneous jobs start task by task, so the gate does not take them. With "|" any one of the licences will
-- do: another cannot be asked for beside them.
local function to_gate(snap, job, sides, offset)
  local licences = text(job.licenses)
  local asked = asks(licences, snap.gate)
  local single = not offset and not text(job.array_inx)
  if not asked and single and sides:find("guaranteed", 1, true) and not (licences or ""):find("|", 1, true) then
    job.licenses = (licences and licences .. "," or "") .. snap.gate .. ":1"
    asked = true
  end
  -- topology/block refuses a set of nodes that is given without segments; before 25.11 there is no such field
  if asked and snap.segments and job.segment_size and not positive(job.segment_size, NO_VAL16) then
    job.segment_size = 1
  end
end

-- Nodes that fail often are kept from large jobs, since one fault ends the work of all nodes: these exclude them. Who
-- names nodes chose for himself.
local function keep_off(snap, job, nodes)
  if text(job.req_nodes) then
    return
  end
  local names = {}
  for _, one in ipairs(snap.limited) do
    if nodes > one.largest then
      names[#names + 1] = one.nodes
    end
  end
  if #names > 0 then
    local own = text(job.exc_nodes)
    job.exc_nodes = (own and own .. "," or "") .. joined(names, ",")
  end
end

-- Whether a job would be considered at once if there were room.
local function ready(job)
  local begin = set(job.begin_time, NO_VAL)
  return set(job.priority, NO_VAL) ~= 0 and not text(job.dependency) and not (begin and begin > os.time())
end

local function submit(snap, job, part_list)
  local user = name_of(job)
  if user and snap.bypass[user] then
    return
  end
  local account, partition = text(job.account), text(job.partition)
  user = user or "uid " .. count_text(tonumber(job.user_id) or -1)
  if not is_ours(snap, partition, account, user, part_list) then
    return
  end
  local request = read_request(function(name)
    return job[name]
  end)
  local qos, offset = text(job.qos), set(job.het_job_offset, NO_VAL)
  local verdict = decide(snap, user, account, partition, qos, request, array_tasks(job.array_inx), offset)

  put(job, "account", account, verdict.account)
  put(job, "partition", partition, verdict.partition)
  put(job, "qos", qos, verdict.qos)
  put(job, "time_limit", request.minutes, verdict.minutes)
  if request.pinned then
    put(job, "min_nodes", positive(job.min_nodes, NO_VAL), request.nodes)
    put(job, "max_nodes", request.max_nodes, request.nodes)
  end
  if request.derived then
    job.tres_per_job = string.format("gres/gpu:%s:%s", verdict.model, count_text(request.gpus))
  end
  for _, kind in ipairs(KINDS) do
    local list = request[kind] and text(job[LISTS[kind]])
    if list then
      put(job, LISTS[kind], list, typed(list, verdict.model))
    end
  end
  if snap.gate then
    to_gate(snap, job, joined(verdict.sides), offset)
  end
  if #snap.limited > 0 then
    keep_off(snap, job, math.max(request.nodes or 1, request.max_nodes or 1))
  end
  return ready(job) and advice(verdict)
end

local SIZE_COUNTS = { "min_nodes", "max_nodes", "num_tasks" }

local function modify(snap, job, record, part_list, submit_uid)
  -- Slurm itself lets only the owner, operators and the account's coordinators change a job; the rules are for owners.
  if tonumber(submit_uid) ~= tonumber(record.user_id) then
    return
  end
  -- the record of a job that never started may lack the name
  local user = text(record.user_name) or name_of(job)
  if not user or snap.bypass[user] then
    return
  end
  local resized = false
  for _, name in pairs(LISTS) do
    resized = resized or text(job[name]) ~= nil
  end
  for _, name in ipairs(SIZE_COUNTS) do
    resized = resized or positive(job[name], NO_VAL) ~= nil
  end
  local new = { account = text(job.account), partition = text(job.partition), qos = text(job.qos) }
  local minutes, before = set(job.time_limit, NO_VAL), set(record.time_limit, NO_VAL)
  local longer = minutes and (not before or minutes > before)
  if not (resized or longer or new.account or new.partition or new.qos) then
    return
  end
  local account, partition = new.account or text(record.account), new.partition or text(record.partition)
  if not is_ours(snap, partition, account, user, part_list) then
    return
  end
  local old_gpus = tonumber(string.match(text(record.tres_fmt_req_str) or "", "gres/gpu=(%d+)"))
  local request = read_request(function(name)
    if name == "time_limit" then
      return minutes or before
    end
    if name == "shared" then
      return NO_VAL16 -- the record does not tell; --exclusive was judged when the job came
    end
    local value = job[name]
    if type(value) == "string" and value ~= "" or set(value, NO_VAL) and value ~= NO_VAL16 then
      return value
    end
    return record[name]
  end)
  if request.per_task and not request.tasks and not text(job.tres_per_task) and old_gpus then
    request.tasks = math.floor(old_gpus / math.max(request.per_task, 1)) -- the record does not hold its tasks
  end
  if not resized and old_gpus then
    request.per_job, request.per_node, request.per_task = old_gpus, nil, nil
  end
  local qos = new.qos or not new.account and text(record.qos) or nil
  local tasks = positive(record.array_task_cnt, NO_VAL) or 1
  local verdict = decide(snap, user, account, partition, qos, request, tasks, nil)

  if new.account then
    put(job, "account", new.account, verdict.account)
  end
  if new.qos or new.account then
    put(job, "qos", new.qos, verdict.qos)
  end
  for _, name in pairs(LISTS) do
    local list = text(job[name])
    if list then
      put(job, name, list, typed(list, verdict.model))
    end
  end
  local waits = set(record.job_state, NO_VAL) == 0 and set(record.priority, NO_VAL) ~= 0 -- neither running nor held
  return waits and advice(verdict)
end

-- Runs a decision so that nothing but it can refuse a job.
local function guarded(what, job, action)
  local snap, why
  local function attempt()
    snap, why = snapshot()
    return snap and action(snap)
  end
  speaking_to, language = job, nil
  local ok, result = pcall(attempt)
  if current and current.file then
    current.file:close()
    current.file = nil
  end
  if ok then
    if not snap then
      complain(why)
    elseif result then
      slurm.log_user("%s", result)
    end
    return slurm.SUCCESS
  end
  if type(result) == "table" and result.refusal then
    slurm.log_user("%s", result.refusal)
    local who = shown(name_of(job))
    slurm.log_info("%s", "gpuaas: refused " .. what .. " of " .. who .. " (" .. result.key .. "): " .. result.refusal)
    return slurm.ESLURM_ACCOUNTING_POLICY or slurm.ERROR
  end
  if type(result) == "table" and result.broken then
    complain("the snapshot is " .. result.broken)
  else
    complain("error in job_submit.lua: " .. tostring(result))
  end
  return slurm.SUCCESS
end

function slurm_job_submit(job_desc, part_list, submit_uid)
  return guarded("a job", job_desc, function(snap)
    return submit(snap, job_desc, part_list)
  end)
end

function slurm_job_modify(job_desc, job_rec, part_list, submit_uid)
  return guarded("a change", job_desc, function(snap)
    return modify(snap, job_desc, job_rec, part_list, submit_uid)
  end)
end

return slurm.SUCCESS
