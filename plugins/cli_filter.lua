-- Tells whoever submits a job what it will cost at most, what is left of the budget, and when there is room for it.
--
-- It runs in sbatch, srun and salloc, as the user, before anything is sent. It reads two small local files of gpuaasd
-- and changes nothing: no network, no process, no refusal. Whatever goes wrong (no files, old ones, others' format, an error
-- in this very file) means that nothing is said. docs/design/0014-estimates-are-files.md says why.
-- Slurm is built against Lua 5.1 to 5.4, so this keeps to what all of them have.

local FOLDER = GPUAAS_ESTIMATES or "/run/gpuaas/estimates" -- a test sets the global before it loads this file
local STALE_AFTER_S = 300 -- gpuaasd writes every few seconds; this is many missed
local LARGEST_FILE = 1048576 -- bytes that are read
local KST_S = 9 * 3600 -- times are Korean

local MESSAGES = {
  en = {
    estimate = "Estimate: {cost} at most ({gpus} x {time}{tasks}, {side} of project {project}); {left}; {wait}.",
    won = "{won} Won",
    hours = "{hours} GPU-hours (no price is set)",
    gpu = "{n} GPU",
    gpus = "{n} GPUs",
    tasks = " x {n} array tasks",
    left_won = "{won} Won and {hours} GPU-hours of the budget are left",
    left_hours = "{hours} GPU-hours of the budget are left",
    no_budget = "no budget is set",
    now = "there is room for it now",
    by = "there is room for it by {at} KST at the latest, as things stand",
    never = "as things stand nothing says when there will be room",
    own = "project {project} has {room} of its {side} GPUs to start now, so it waits for the project's own jobs",
    guaranteed = "guaranteed",
    burst = "burst",
  },
  ko = {
    estimate = "예상: 최대 {cost}({gpus} x {time}{tasks}, 과제 {project}의 {side}). {left}. {wait}.",
    won = "{won}원",
    hours = "{hours} GPU시간(단가 미설정)",
    gpu = "GPU {n}개",
    gpus = "GPU {n}개",
    tasks = " x 배열 작업 {n}개",
    left_won = "남은 예산 {won}원, {hours} GPU시간",
    left_hours = "남은 예산 {hours} GPU시간",
    no_budget = "예산 한도 없음",
    now = "지금 자리가 있습니다",
    by = "현재 상황대로라면 늦어도 {at}(한국 시각)에는 자리가 납니다",
    never = "현재 상황으로는 자리가 나는 때를 알 수 없습니다",
    own = "과제 {project}에서 지금 시작할 수 있는 {side} GPU는 {room}개이므로 같은 과제의 작업이 끝나기를 기다립니다",
    guaranteed = "보장분",
    burst = "버스트",
  },
}

------------------------------------------------------------------------------------------------------------------------
-- Words

local function language()
  for _, name in ipairs({ "LC_ALL", "LC_MESSAGES", "LANG" }) do
    local value = os.getenv(name)
    if value and value ~= "" then
      return string.match(value .. "_", "^ko[_.@]") and "ko" or "en"
    end
  end
  return "en"
end

local function say(key, words)
  return (string.gsub(MESSAGES[language()][key], "{(%w+)}", function(word)
    return tostring(words[word])
  end))
end

-- 1234567.8 as 1,234,567: a part of a Won is not charged, and a hair below a whole one is an error of doubles.
local function grouped(number)
  local digits = string.format("%.0f", math.floor(number + 0.000001))
  local rest = #digits % 3
  local head = string.sub(digits, 1, rest)
  local tail = string.gsub(string.sub(digits, rest + 1), "%d%d%d", ",%0")
  return rest == 0 and string.sub(tail, 2) or head .. tail
end

local function hours_text(minutes)
  return (string.gsub(string.format("%.1f", math.floor(minutes / 6) / 10), "%.0$", ""))
end

local function time_text(minutes)
  local hours = math.floor(minutes / 60)
  return string.format("%.0f-%02.0f:%02.0f:00", math.floor(hours / 24), hours % 24, minutes % 60)
end

------------------------------------------------------------------------------------------------------------------------
-- Files

local function read(name)
  local file = io.open(FOLDER .. "/" .. name, "r")
  local content = file and file:read(LARGEST_FILE)
  if file then
    file:close()
  end
  return content
end

local function fields_of(line)
  local fields = {}
  for field in string.gmatch(line .. "\t", "(.-)\t") do
    fields[#fields + 1] = field
  end
  return fields
end

-- Of the process, by the kernel: names of users can be anything in an environment.
local function uid()
  local file = io.open(GPUAAS_STATUS or "/proc/self/status", "r")
  local status = file and file:read(4096)
  if file then
    file:close()
  end
  return string.match(status or "", "\nUid:%s*(%d+)")
end

-- The user's projects with grants in force.
local function projects()
  local found = {}
  for line in string.gmatch(read(uid() or "") or "", "[^\n]+") do
    local f = fields_of(line)
    if f[1] == "project" and f[13] then
      found[#found + 1] = {
        name = f[2],
        default = f[3] == "1",
        partition = f[4],
        model = f[5],
        per_node = tonumber(f[6]),
        longest = tonumber(f[7]),
        price = { guaranteed = tonumber(f[8]), burst = tonumber(f[9]) },
        minutes_left = tonumber(f[10]),
        won_left = tonumber(f[11]),
        room = { guaranteed = tonumber(f[12]), burst = tonumber(f[13]) },
      }
    end
  end
  return found
end

-- Epoch seconds at which a job has room in a partition, 0 for now; nil where nothing says.
local function opening(shares, partition, side, gpus)
  local start = "by\t" .. partition .. "\t" .. side .. "\t"
  local at = 1
  while at do
    local first, last = string.find(shares, "\n" .. start, at, true)
    if not first then
      return nil
    end
    local size, moment = string.match(shares, "^(%d+)\t(%d+)\n", last + 1)
    if size and tonumber(size) >= gpus then
      return tonumber(moment)
    end
    at = last
  end
end

------------------------------------------------------------------------------------------------------------------------
-- A request, in the words of Slurm's clients

local function text(value)
  return type(value) == "string" and value ~= "" and value ~= "invalid-context" and value or nil
end

-- The GPUs of "8", "b200:8", "gres/gpu:b200:8" or a list with one of those.
local function count(list, bare)
  for one in string.gmatch(text(list) or "", "[^,]+") do
    if bare or string.find(one, "gpu", 1, true) then
      return tonumber(string.match(one, "(%d+)$")) or 1
    end
  end
end

local function gpus_of(options)
  local least, most = string.match(text(options["nodes"]) or "1", "^(%d+)%-?(%d*)")
  local nodes = math.max(tonumber(most) or 0, tonumber(least) or 1, 1)
  local per_node = count(options["gpus-per-node"], true) or count(options["gres"])
  local per_task = count(options["gpus-per-task"], true) or count(options["tres-per-task"])
  local total = count(options["gpus"], true) or 0
  total = math.max(total, (per_node or 0) * nodes, (per_task or 0) * (tonumber(options["ntasks"]) or 1))
  return total
end

-- Minutes of "D-HH:MM:SS" or "HH:MM:SS", as Slurm's clients hand a time on; nil where there is none.
local function minutes_of(time)
  local days, clock = string.match(text(time) or "", "^(%d+)%-(.*)$")
  local hours, minutes, seconds = string.match(clock or text(time) or "", "^(%d+):(%d+):(%d+)$")
  if not hours then
    return nil
  end
  return (tonumber(days) or 0) * 1440 + hours * 60 + minutes + math.ceil(seconds / 60)
end

local function array_tasks(inx)
  local tasks = 0
  for part in string.gmatch((string.gsub(text(inx) or "", "%%.*$", "")), "[^,]+") do
    local first, last, step = string.match(part, "^(%d+)%-(%d+):?(%d*)$")
    local many = first and math.floor((last - first) / math.max(tonumber(step) or 1, 1)) + 1
    tasks = tasks + math.max(many or 1, 0)
  end
  return math.max(tasks, 1)
end

-- The project a job would run in, as the hook will choose it; nil where it will refuse.
local function chosen(options)
  local account, partition = text(options["account"]), text(options["partition"])
  local fitting = {}
  for _, one in ipairs(projects()) do
    if (not account or string.lower(account) == one.name) and (not partition or partition == one.partition) then
      if one.default and not account then
        return one
      end
      fitting[#fitting + 1] = one
    end
  end
  return (account or #fitting == 1) and fitting[1] or nil
end

------------------------------------------------------------------------------------------------------------------------
-- The sentence

local function left_of(project)
  if not project.minutes_left then
    return say("no_budget", {})
  end
  local hours = hours_text(project.minutes_left)
  return project.won_left and say("left_won", { won = grouped(project.won_left), hours = hours })
    or say("left_hours", { hours = hours })
end

local function wait_of(shares, project, side, gpus)
  local room = project.room[side]
  if room and gpus > room then
    return say("own", { project = project.name, room = string.format("%.0f", room), side = say(side, {}) })
  end
  local at = opening(shares, project.partition, side, gpus)
  if not at then
    return say("never", {})
  end
  return at == 0 and say("now", {}) or say("by", { at = os.date("!%Y-%m-%d %H:%M", at + KST_S) })
end

local function estimate(options)
  if os.getenv("GPUAAS_ESTIMATE") == "off" or options["type"] == "srun" and os.getenv("SLURM_JOB_ID") then
    return nil -- a step has been paid for with its job
  end
  local gpus = gpus_of(options)
  local project = gpus >= 1 and chosen(options)
  local shares = project and read("shares")
  local written = string.match(shares or "", "^gpuaas%-estimates 1 (%d+)\n")
  if not written or os.time() - written > STALE_AFTER_S then
    return nil
  end
  local side = string.match(text(options["qos"]) or "", "^burst") and "burst" or "guaranteed"
  local minutes, tasks = minutes_of(options["time"]) or project.longest, array_tasks(options["array"])
  local price, gpu_minutes = project.price[side], gpus * minutes * tasks
  return say("estimate", {
    cost = price and say("won", { won = grouped(gpu_minutes / 60 * price) })
      or say("hours", { hours = hours_text(gpu_minutes) }),
    gpus = say(gpus == 1 and "gpu" or "gpus", { n = string.format("%.0f", gpus) }),
    time = time_text(minutes),
    tasks = tasks > 1 and say("tasks", { n = string.format("%.0f", tasks) }) or "",
    side = say(side, {}),
    project = project.name,
    left = left_of(project),
    wait = wait_of(shares, project, side, gpus),
  })
end

------------------------------------------------------------------------------------------------------------------------
-- The three calls of Slurm's clients, of which none may fail

function slurm_cli_setup_defaults(options, early)
  return slurm.SUCCESS
end

function slurm_cli_pre_submit(options, offset)
  pcall(function()
    local sentence = estimate(options)
    if sentence then
      slurm.log_info("%s", sentence)
    end
  end)
  return slurm.SUCCESS
end

function slurm_cli_post_submit(offset, job, step)
  return slurm.SUCCESS
end
