-- Hands messages of several partitions to a member that competes for them.
-- KEYS, per partition: stream, record of the group, waiting, delayed.
-- ARGV: group, consumer, birth of the group, how many, max attempts, lease of foreign consumers, channel of hints, and for
-- each partition a 1 if the caller reads it by itself, in the same transaction: what goes through a script costs twice.
-- Answers now, when something is due, runs of {partition, epoch, attempt, entries}, and the epoch of each partition; a
-- negative attempt is the number of attempts of messages that are to be buried.
local group, me, born = ARGV[1], ARGV[2], ARGV[3]
local room, max, channel, apart = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[7], ARGV[8]
local due, runs, epochs = -1, {}, {}

local function sooner(at)
  if at and (due < 0 or at < due) then due = at end
end

-- What wasn't settled in time waits again. A consumer's lease is the end of its name.
local function expire(stream, waiting)
  for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
    local name, held, idle = field(consumer, 'name'), field(consumer, 'pending'), field(consumer, 'idle')
    local lease = tonumber(name:match('^lp%..*%.(%d+)$'))
    -- The lease of what it holds may end any time.
    if held > 0 and name ~= WAITING then sooner(now + 200) end
    if held == 0 then
      if lease and name ~= me and idle > lease + 60000 then
        redis.call('XGROUP', 'DELCONSUMER', stream, group, name)
      end
    elseif name ~= WAITING then
      local late = redis.call('XPENDING', stream, group, 'IDLE', lease or ARGV[6], '-', '+', 200, name)
      for _, entry in ipairs(late) do wait(stream, group, waiting, entry[1], entry[4], now) end
    end
  end
end

-- Takes one message that waits, if it is still there.
local function take(stream, part, epoch, id)
  local attempts = pending(stream, group, id)
  if not attempts then return end
  local entries, attempt
  if attempts >= max then
    entries, attempt = redis.call('XRANGE', stream, id, id), -attempts
    redis.call('XCLAIM', stream, group, me, 0, id, 'RETRYCOUNT', attempts, 'JUSTID')
  else
    attempt = attempts + 1
    entries = redis.call('XCLAIM', stream, group, me, 0, id, 'RETRYCOUNT', attempt)
  end
  if #entries == 0 then
    redis.call('XACK', stream, group, id)
  else
    runs[#runs + 1] = {part, epoch, attempt, entries}
    room = room - 1
  end
end

for i = 1, #KEYS, 4 do
  local stream, record, waiting, delayed = KEYS[i], KEYS[i + 1], KEYS[i + 2], KEYS[i + 3]
  local part = (i - 1) / 4
  local about = redis.call('HMGET', record, 'born', 'epoch', 'scan', 'ordered')
  if about[1] ~= born then return redis.error_reply('LPGONE the group was removed') end
  local epoch = tonumber(about[2])
  if about[4] == '1' then
    epoch = redis.call('HINCRBY', record, 'epoch', 1)
    redis.call('HSET', record, 'ordered', 0, 'owner', '')
  end
  epochs[part + 1] = epoch
  release(stream, delayed, channel)
  if now >= tonumber(about[3] or 0) then
    redis.call('HSET', record, 'scan', now + 100)
    expire(stream, waiting)
  else
    sooner(tonumber(about[3]))
  end
  if room > 0 then
    local ready = redis.call('ZRANGE', waiting, '-inf', now, 'BYSCORE', 'LIMIT', 0, room)
    for _, id in ipairs(ready) do
      redis.call('ZREM', waiting, id)
      take(stream, part, epoch, id)
    end
  end
  if room > 0 and apart:sub(part + 1, part + 1) ~= '1' then
    local read = redis.call('XREADGROUP', 'GROUP', group, me, 'COUNT', room, 'STREAMS', stream, '>')
    if read then
      local entries = read[1][2]
      runs[#runs + 1] = {part, epoch, 1, entries}
      room = room - #entries
    end
  end
  sooner(first_due(waiting))
  sooner(first_due(delayed))
end
return {now, due, runs, epochs}
