-- Decides on each submission and modification of a job from the snapshot that gpuaasd publishes.
--
-- It reads the first line of one local file, and the rest only when that line names a new body. It opens no socket,
-- starts no process and never waits: slurmctld runs it under its locks. Whatever goes wrong (no snapshot, an old one, a
-- broken one, an error in this very file) leaves the job as it came, to Slurm's own limits, and tells the operator in
-- slurmctld.log. docs/reference/hook.md says what is decided, docs/design/0005-the-hook-reads-never-calls.md why.
-- Slurm is built against Lua 5.1 to 5.4, so this keeps to what all of them have.

local SNAPSHOT = GPUAAS_SNAPSHOT or "/run/gpuaas/snapshot" -- a test sets the global before it loads this file
local STALE_AFTER_S = 900 -- gpuaasd renews the first line at least once a minute; this is many missed
local COMPLAIN_EVERY_S = 60
local LONGEST_REQUEST = 4096 -- bytes of one GPU request that are read; Slurm checks lengths only after this hook
local KST_S = 9 * 3600 -- days of grants are Korean days

-- Slurm's "not set", by width of the field (slurm/slurm.h)
local NO_VAL, NO_VAL16, INFINITE = 0xfffffffe, 0xfffe, 0xffffffff

-- Every sentence a user can see. {words} are filled in; each names what was asked, the limit, and what would be accepted.
local MESSAGES = {
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
  wrong_qos = "The job asks for QOS {qos}, but project {project} has {offers}; use --qos=guaranteed{or_burst}.",
  no_burst = "The job asks for --qos=burst, but project {project} may not borrow; "
    .. "use --qos=guaranteed with at most {guaranteed} GPUs.",
  wall_time = "The job asks for a wall time of {time}, but project {project} allows {limit} in partition {partition}; "
    .. "use at most --time={limit}.",
  budget = "The job asks for {total} GPU-hours ({sum}), but project {project} has {left} of its budget left; {offer}.",
}

------------------------------------------------------------------------------------------------------------------------
-- Words and numbers

-- Any number as an integer's text. "%d" raises for what no integer holds; this never does.
local function count_text(n)
  return string.format("%.0f", n)
end

-- Somebody's text made safe to print: no control characters, no terminal escapes, not long.
local function shown(text, most)
  text = string.gsub(string.sub(tostring(text), 1, most or 60), "[^%w%p ]", "?")
  return text == "" and "(empty)" or text
end

local function plural(n, word)
  return count_text(n) .. " " .. word .. (n == 1 and "" or "s")
end

-- Minutes as Slurm writes a time limit: D-HH:MM:00.
local function time_text(minutes)
  if minutes >= INFINITE then
    return "unlimited"
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

local function say(key, words)
  return (string.gsub(MESSAGES[key], "{([%w_]+)}", function(word)
    local value = words[word]
    return type(value) == "number" and count_text(value) or tostring(value)
  end))
end

-- A refusal is raised as a table and caught at the door, so that rules need not pass it along.
local function refuse(key, words)
  error({ refusal = say(key, words) }, 0)
end

local function joined(list)
  return table.concat(list, ", ")
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

local current = nil -- what was last parsed: { hash=, partitions=, projects=, members=, bypass= }
local broken = nil -- hash of a body that could not be parsed: not tried again
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
  for field in string.gmatch(line .. "\t", "(.-)\t") do
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

local RECORDS = {
  cluster = function(into, f)
    local here = slurm.CLUSTER_NAME
    assert(not here or here == f[2], "another cluster's")
    into.cluster = f[2]
  end,
  partition = function(into, f)
    into.partitions[f[2]] = { model = f[3], per_node = number_of(f[4]), max_minutes = limit_of(f[5]) }
  end,
  project = function(into, f)
    local grants = into.projects[f[2]] or {}
    into.projects[f[2]] = grants
    grants[#grants + 1] = {
      project = f[2],
      guaranteed_qos = f[3],
      burst_qos = f[4] ~= "-" and f[4] or nil,
      partition = f[5],
      model = f[6],
      guaranteed = number_of(f[7]),
      borrow_limit = limit_of(f[8]),
      max_per_job = limit_of(f[9]),
      max_minutes = limit_of(f[10]),
      budget = limit_of(f[11]),
      starts = number_of(f[12]),
      ends = number_of(f[13]),
      state = assert(f[14], "too short"),
    }
  end,
  member = function(into, f)
    local member = into.members[f[2]] or { projects = {}, is_in = {} }
    into.members[f[2]] = member
    member.projects[#member.projects + 1] = f[3]
    member.is_in[f[3]] = true
    if assert(f[4], "too short") == "1" then
      member.default = f[3]
    end
  end,
  bypass = function(into, f)
    into.bypass[f[2]] = true
  end,
}

local function parse(body, hash)
  assert(string.sub(body, -1) == "\n", "cut short")
  local into = { hash = hash, partitions = {}, projects = {}, members = {}, bypass = { root = true } }
  for line in string.gmatch(body, "([^\n]+)\n") do
    local f = fields_of(line)
    -- a kind this version does not know is of a newer daemon and no reason to stop
    if RECORDS[f[1]] then
      RECORDS[f[1]](into, f)
    end
  end
  for _, grants in pairs(into.projects) do
    for _, grant in ipairs(grants) do
      assert(into.partitions[grant.partition], "without a partition it names")
    end
  end
  assert(into.cluster, "without its cluster")
  return into
end

-- The snapshot to decide by, or nil and why there is none.
local function snapshot()
  local file = io.open(SNAPSHOT, "r")
  if not file then
    return nil, "there is no snapshot at " .. SNAPSHOT .. "; is gpuaasd running?"
  end
  local head = file:read("*l")
  local generated, hash = string.match(head or "", "^gpuaas%-snapshot 1 (%d+) (%x+)$")
  if not generated then
    file:close()
    return nil, "the snapshot's first line cannot be read"
  end
  if hash ~= broken and (not current or current.hash ~= hash) then
    local ok, result = pcall(parse, file:read("*a"), hash)
    if ok then
      current = result
    else
      broken = hash
      complain("the snapshot is " .. tostring(result))
    end
  end
  file:close()
  if hash == broken then
    return nil, "the snapshot is broken"
  end
  local age = os.time() - tonumber(generated)
  if age > STALE_AFTER_S then
    return nil, "the snapshot is " .. count_text(age) .. " s old; is gpuaasd running?"
  end
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
  local member = snap.members[user]
  if not member then
    refuse("no_project", { user = shown(user) })
  end
  account = account and string.lower(account)
  if account and not member.is_in[account] then
    refuse("not_member", { user = shown(user), account = shown(account), projects = joined(member.projects) })
  end
  local project = account or member.default or (#member.projects == 1 and member.projects[1])
  if not project then
    refuse("which_project", { user = shown(user), count = #member.projects, projects = joined(member.projects) })
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
  local grants = snap.projects[project]
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
  local nodes, gpus = plural(request.nodes, "node"), plural(request.gpus, "GPU")
  if request.gpus < 1 then
    refuse("no_gpu", { partition = grant.partition, per_node = per_node })
  end
  local whole = request.gpus == request.nodes * per_node and (request.per_node or per_node) == per_node
  if request.exclusive and not whole then
    refuse("exclusive", { per_node = per_node, gpus = gpus, nodes = nodes })
  end
  if (request.nodes > 1 or request.gpus > per_node) and not whole then
    local full = math.max(math.floor(request.gpus / per_node), 1)
    local offer = full > 1 and string.format("--nodes=%s --gpus-per-node=%s", count_text(full), count_text(per_node))
      or "--nodes=1 --gpus=" .. count_text(math.min(request.gpus, per_node))
    refuse("whole_nodes", { gpus = gpus, nodes = nodes, per_node = per_node, offer = offer })
  end
end

-- The largest whole job within a number of GPUs.
local function largest(gpus, per_node)
  return gpus > per_node and gpus - gpus % per_node or gpus
end

-- The QOS for the job: every asked side that holds it whole. Nothing asked means guaranteed.
local function the_qos(request, grant, per_node, asked, with_others)
  local cap = { guaranteed = grant.guaranteed, burst = grant.burst_qos and (grant.borrow_limit or math.huge) or nil }
  local side_of = { guaranteed = "guaranteed", burst = "burst", [grant.guaranteed_qos] = "guaranteed" }
  if grant.burst_qos then
    side_of[grant.burst_qos] = "burst"
  end
  local fitting = {}
  for name in string.gmatch(asked or "guaranteed", "[^,]+") do
    local side = side_of[name]
    if not side then
      refuse("wrong_qos", {
        qos = shown(name),
        project = grant.project,
        offers = grant.guaranteed_qos .. (grant.burst_qos and " and " .. grant.burst_qos or ""),
        or_burst = grant.burst_qos and " or --qos=burst" or "",
      })
    elseif not cap[side] then
      refuse("no_burst", { project = grant.project, guaranteed = grant.guaranteed })
    end
    if with_others <= cap[side] then
      fitting[#fitting + 1] = side == "burst" and grant.burst_qos or grant.guaranteed_qos
    end
  end
  if #fitting > 0 then
    return table.concat(fitting, ",")
  end
  local offers = {}
  for _, side in ipairs({ "guaranteed", "burst" }) do
    local most = cap[side] or 0
    if most >= 1 then
      local size = with_others <= most and "this size" or "at most --gpus=" .. count_text(largest(most, per_node))
      offers[#offers + 1] = size .. " with --qos=" .. side .. (side == "burst" and " (preemptible)" or "")
    end
  end
  return refuse("fits_neither", {
    gpus = plural(with_others, "GPU"),
    project = grant.project,
    guaranteed = plural(grant.guaranteed, "GPU"),
    burst = not cap.burst and "none" or cap.burst == math.huge and "no bound" or plural(cap.burst, "GPU"),
    offer = #offers > 0 and "use " .. table.concat(offers, ", or ") or "ask for a larger grant",
  })
end

local function check_budget(grant, gpu_minutes, sum, rate)
  if not grant.budget or gpu_minutes <= grant.budget then
    return
  end
  local minutes = math.floor(math.max(grant.budget, 0) / rate)
  refuse("budget", {
    total = hours_text(gpu_minutes),
    sum = sum,
    project = grant.project,
    left = hours_text(math.max(grant.budget, 0)),
    offer = minutes >= 1 and "use at most --time=" .. time_text(minutes) .. " at this size, or fewer GPUs"
      or "ask a cluster administrator for more",
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
    refuse("max_per_job", { gpus = plural(gpus, "GPU"), project = project, limit = grant.max_per_job, offer = offer })
  end
  local granted_qos = the_qos(request, grant, share.per_node, qos, gpus)

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
  if minutes then
    local sum = plural(request.gpus, "GPU") .. " x " .. time_text(minutes)
    sum = sum .. (request.minutes and "" or ", the longest allowed as --time was left out")
    sum = sum .. (tasks > 1 and " x " .. count_text(tasks) .. " array tasks" or "")
    sum = sum .. (minutes_before > 0 and " + " .. hours_text(minutes_before) .. " GPU-hours of earlier components" or "")
    check_budget(grant, gpu_minutes + minutes_before, sum, gpus * tasks)
  end
  if offset then
    earlier[user] = { next = offset + 1, project = project, gpus = gpus, gpu_minutes = gpu_minutes + minutes_before }
  end
  return { account = project, partition = grant.partition, qos = granted_qos, minutes = minutes, model = grant.model }
end

-- Whether a job is for us: its partition, or the default one where none is named, is a share of ours.
local function is_ours(snap, partition, account, user, part_list)
  if not partition then
    if account and snap.projects[string.lower(account)] or not account and snap.members[user] then
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
end

-- Runs a decision so that nothing but it can refuse a job.
local function guarded(what, job, action)
  local ok, problem = pcall(function()
    local snap, why = snapshot()
    if snap then
      action(snap)
    else
      complain(why)
    end
  end)
  if ok then
    return slurm.SUCCESS
  end
  if type(problem) == "table" and problem.refusal then
    slurm.log_user("%s", problem.refusal)
    slurm.log_info("%s", "gpuaas: refused " .. what .. " of " .. shown(name_of(job)) .. ": " .. problem.refusal)
    return slurm.ESLURM_ACCOUNTING_POLICY or slurm.ERROR
  end
  complain("error in job_submit.lua: " .. tostring(problem))
  return slurm.SUCCESS
end

function slurm_job_submit(job_desc, part_list, submit_uid)
  return guarded("a job", job_desc, function(snap)
    submit(snap, job_desc, part_list)
  end)
end

function slurm_job_modify(job_desc, job_rec, part_list, submit_uid)
  return guarded("a change", job_desc, function(snap)
    modify(snap, job_desc, job_rec, part_list, submit_uid)
  end)
end

return slurm.SUCCESS
