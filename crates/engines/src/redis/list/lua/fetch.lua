-- Hands messages of several partitions to a member that competes for them.
-- KEYS, per partition: list, record of the group, waiting, delayed.
-- ARGV: group, consumer, birth of the group, how many, max attempts, unused, channel of hints, unused.
-- Answers as the script of streams does: now, when something is due, runs of {partition, epoch, attempt, entries}, no epochs.
local group, me, born = ARGV[1], ARGV[2], ARGV[3]
local room, max, channel = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[7]
local lost = now + me:match('%.(%d+)$')
local due, runs = -1, {}

local function sooner(at)
  if at and (due < 0 or at < due) then due = at end
end

-- Takes one message that waits.
local function take(part, record, id)
  local taken, held, leases = taken_of(record)
  local payload, attempts = redis.call('HGET', taken, id), attempts_of(held, id)
  if not payload then return redis.call('HDEL', held, id) end
  local hopeless = attempts >= max
  if not hopeless then attempts = attempts + 1 end
  redis.call('HSET', held, id, attempts .. ' ' .. me)
  redis.call('ZADD', leases, lost, id)
  local entry = {id, {'payload', payload}}
  runs[#runs + 1] = {part, 1, hopeless and -attempts or attempts, {entry}}
end

-- Takes from the list: the time and a count make the id.
local function take_new(part, record, list)
  local taken, held, leases = taken_of(record)
  local came = redis.call('RPOP', list, room)
  if not came then return end
  local last = redis.call('HINCRBY', record, 'count', #came) - #came
  local entries = {}
  for from = 1, #came, 1000 do
    local payloads, holders, ends = {}, {}, {}
    for i = from, math.min(from + 999, #came) do
      local id = string.format('%d-%d', now, last + i)
      entries[i] = {id, {'payload', came[i]}}
      payloads[#payloads + 1], payloads[#payloads + 2] = id, came[i]
      holders[#holders + 1], holders[#holders + 2] = id, '1 ' .. me
      ends[#ends + 1], ends[#ends + 2] = lost, id
    end
    redis.call('HSET', taken, unpack(payloads))
    redis.call('HSET', held, unpack(holders))
    redis.call('ZADD', leases, unpack(ends))
  end
  runs[#runs + 1] = {part, 1, 1, entries}
  room = room - #came
end

for i = 1, #KEYS, 4 do
  local list, record, waiting, delayed = KEYS[i], KEYS[i + 1], KEYS[i + 2], KEYS[i + 3]
  local part = (i - 1) / 4
  if redis.call('HGET', record, 'born') ~= born then return redis.error_reply('LPGONE the group was removed') end
  enter(list:sub(1, -2 - #group), delayed:sub(1, -2) .. 'p', delayed, channel)
  local _, held, leases = taken_of(record)
  for _, id in ipairs(redis.call('ZRANGE', leases, '-inf', now, 'BYSCORE', 'LIMIT', 0, 500)) do
    let_go(record, waiting, id, attempts_of(held, id), now)
  end
  if room > 0 then
    local ready = redis.call('ZRANGE', waiting, '-inf', now, 'BYSCORE', 'LIMIT', 0, room)
    for _, id in ipairs(ready) do
      redis.call('ZREM', waiting, id)
      take(part, record, id)
    end
    room = room - #ready
  end
  if room > 0 then take_new(part, record, list) end
  sooner(first_due(waiting))
  sooner(first_due(leases))
  sooner(first_due(delayed))
end
return {now, due, runs, {}}
