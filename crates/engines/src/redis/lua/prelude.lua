-- In front of every script. Time is the server's, in milliseconds.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

-- Holds, in the group's list of pending entries, what nobody has in hand. Its delivery count is the number of
-- attempts made so far; when it is due stands in the sorted set of the waiting.
local WAITING = 'lp-waiting'

-- How often a pending entry was handed out, and who holds it.
local function pending(stream, group, id)
  local entry = redis.call('XPENDING', stream, group, id, id, 1)[1]
  if entry then return entry[4], entry[2] end
end

-- Out of everybody's hand, until it is due.
local function wait(stream, group, waiting, id, attempts, due)
  local moved = redis.call('XCLAIM', stream, group, WAITING, 0, id, 'RETRYCOUNT', attempts, 'JUSTID')
  if #moved > 0 then redis.call('ZADD', waiting, due, id) end
end

-- Those who wait for messages look again. A hint: without the right to publish they look a little later.
local function hint(channel)
  if channel ~= '' then redis.pcall('PUBLISH', channel, '') end
end

-- Delayed messages that are due enter the stream.
local function release(stream, delayed, channel)
  local ready = redis.call('ZRANGE', delayed, '-inf', now, 'BYSCORE', 'LIMIT', 0, 100)
  for _, packed in ipairs(ready) do
    redis.call('XADD', stream, '*', unpack(cmsgpack.unpack(packed:sub(23))))
    redis.call('ZREM', delayed, packed)
  end
  if #ready > 0 then hint(channel) end
end

-- The score of what is due first.
local function first_due(set)
  local first = redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')
  return tonumber(first[2])
end

-- The value of a field in a flat list of names and values.
local function field(list, name)
  for i = 1, #list, 2 do
    if list[i] == name then return list[i + 1] end
  end
end

-- Where a group begins that starts behind `start`; never behind the end.
local function place(stream, start)
  local ms, seq = start:match('^(%d+)-(%d+)$')
  if not ms then return start end
  local last_ms, last_seq = field(redis.call('XINFO', 'STREAM', stream), 'last-generated-id'):match('^(%d+)-(%d+)$')
  local a, b = tonumber(ms), tonumber(last_ms)
  if a > b or (a == b and tonumber(seq) >= tonumber(last_seq)) then return '$' end
  return start
end
