-- In front of every script of lists, behind the common prelude. Beside the record of a group stand, of what it took:
-- `:t` the payloads by id; `:a` by id how often it was handed out, a space, and who holds it (nobody while it waits);
-- `:h` when each that is in hand is lost.
local function taken_of(record)
  return record .. ':t', record .. ':a', record .. ':h'
end

-- How often a message was handed out.
local function attempts_of(held, id)
  return tonumber((redis.call('HGET', held, id) or '0'):match('^%d+'))
end

-- The names of the groups of a partition. Its record has a field of its birth, and `g:` and the name for each.
local function groups_of(part)
  local names = {}
  for _, name in ipairs(redis.call('HKEYS', part)) do
    if name:sub(1, 2) == 'g:' then names[#names + 1] = name:sub(3) end
  end
  return names
end

-- List, record and waiting of a group.
local function keys_of(base, part, group)
  local root = part:sub(1, -2)
  return base .. ':' .. group, root .. 'g:' .. group, root .. 'w:' .. group
end

-- Onto the list of every group; onto the partition's own while there is none.
local function push(base, part, payloads)
  local lists = groups_of(part)
  for i, group in ipairs(lists) do lists[i] = base .. ':' .. group end
  if #lists == 0 then lists[1] = base end
  for _, list in ipairs(lists) do
    for i = 1, #payloads, 1000 do
      redis.call('LPUSH', list, unpack(payloads, i, math.min(i + 999, #payloads)))
    end
  end
end

-- Delayed messages that are due enter the lists.
local function enter(base, part, delayed, channel)
  local ready = redis.call('ZRANGE', delayed, '-inf', now, 'BYSCORE', 'LIMIT', 0, 100)
  if #ready == 0 then return end
  local payloads = {}
  for i, marked in ipairs(ready) do payloads[i] = marked:sub(23) end
  push(base, part, payloads)
  redis.call('ZREM', delayed, unpack(ready))
  hint(channel)
end

-- Out of everybody's hand, until it is due.
local function let_go(record, waiting, id, attempts, due)
  local _, held, leases = taken_of(record)
  redis.call('HSET', held, id, attempts .. ' ')
  redis.call('ZREM', leases, id)
  redis.call('ZADD', waiting, due, id)
end

-- Everything of a group.
local function wipe_group(list, record, waiting)
  local taken, held, leases = taken_of(record)
  redis.call('DEL', list, record, waiting, taken, held, leases)
end

-- Everything of a partition.
local function wipe(base, part, delayed)
  for _, group in ipairs(groups_of(part)) do wipe_group(keys_of(base, part, group)) end
  redis.call('DEL', base, part, delayed)
end
