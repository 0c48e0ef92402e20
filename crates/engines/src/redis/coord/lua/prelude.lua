-- In front of every script of coordination, behind the common prelude. All have the same keys; ARGV begins with the channel of
-- hints. Every answer is {status, ...}: see below.
local STATE, META, VALUES, NAMES, CHANGES, GRAVES, LEASES, TIMES, LEASED = unpack(KEYS)
local CHANNEL = ARGV[1]
local BUSY, FINE, CONFLICT, NO_LEASE = 0, 1, 2, 3
-- Deletions that are remembered, and keys of ended leases that one call removes.
local MOST_GRAVES, MOST_SWEPT = 10000, 2000

-- Leases are measured in microseconds: a millisecond that is rounded down would end one too soon.
local micros = clock[1] * 1000000 + clock[2]
local rev = tonumber(redis.call('HGET', STATE, 'rev') or 0)

local function whole(number)
  return string.format('%.0f', number)
end

-- Revisions rise by themselves, and keep up with the clock: one that was lost with a server isn't given again.
local function step()
  -- What there may have been before is forgotten with it.
  if rev == 0 then redis.call('HSET', STATE, 'forgotten', whole(micros)) end
  rev = math.max(rev + 1, micros)
  redis.call('HSET', STATE, 'rev', whole(rev))
end

-- Those who watch look again. An empty key is every key. A hint: without the right to publish they look a little later.
local function tell(before, key)
  redis.pcall('PUBLISH', CHANNEL, whole(before) .. ' ' .. whole(rev) .. ' ' .. key)
end

-- Revisions of its creation and of its last change, and the lease, of a key that is there.
local function about(key)
  local meta = redis.call('HGET', META, key)
  if meta then return meta:match('^(%d+) (%d+) (.*)$') end
end

-- Removes a key that is there. Its last change is remembered, as long as not too many others were removed after it.
local function bury(key, lease)
  step()
  redis.call('HDEL', META, key)
  redis.call('HDEL', VALUES, key)
  redis.call('ZREM', NAMES, key)
  if lease ~= '' then redis.call('ZREM', LEASED, lease .. ' ' .. key) end
  redis.call('ZADD', CHANGES, whole(rev), key)
  redis.call('ZADD', GRAVES, whole(rev), key)
  if redis.call('ZCARD', GRAVES) > MOST_GRAVES then
    local oldest = redis.call('ZPOPMIN', GRAVES)
    redis.call('ZREM', CHANGES, oldest[1])
    redis.call('HSET', STATE, 'forgotten', oldest[2])
  end
end

-- Ends the leases whose time is over; false if there is more of it than one call does.
local function sweep()
  local room, count, before, last = MOST_SWEPT, 0, rev, ''
  while room > 0 do
    local id = redis.call('ZRANGE', LEASES, '-inf', whole(micros), 'BYSCORE', 'LIMIT', 0, 1)[1]
    if not id then break end
    local held = redis.call('ZRANGE', LEASED, '[' .. id .. ' ', '(' .. id .. '!', 'BYLEX', 'LIMIT', 0, room)
    for _, member in ipairs(held) do
      last = member:sub(#id + 2)
      bury(last, id)
    end
    if #held < room then
      redis.call('ZREM', LEASES, id)
      redis.call('HDEL', TIMES, id)
    end
    room, count = room - #held - 1, count + #held
  end
  if count > 0 then tell(before, count == 1 and last or '') end
  return room > 0
end
