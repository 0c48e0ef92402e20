-- Settles deliveries of one partition that one member holds. KEYS: list, record of the group, waiting.
-- ARGV: group, consumer, birth of the group, three that are unused, channel of hints, how many acks, their ids, a 1,
-- their attempts; then per other settle: what, id, attempt, number.
-- Answers now, and a 1 for each that took effect, a 0 for each that was lost; nothing if all were.
local list, record, waiting = KEYS[1], KEYS[2], KEYS[3]
local me, acks = ARGV[2], tonumber(ARGV[8])
if redis.call('HGET', record, 'born') ~= ARGV[3] then return {now, ''} end
local taken, held, leases = taken_of(record)
local took, back, done, waits = {}, {}, {}, false

if acks > 0 then
  local holders = redis.call('HMGET', held, unpack(ARGV, 9, 8 + acks))
  for i = 1, acks do
    local mine = holders[i] == ARGV[9 + acks + i] .. ' ' .. me
    if mine then done[#done + 1] = ARGV[8 + i] end
    took[i] = mine and '1' or '0'
  end
end
for i = 10 + 2 * acks, #ARGV, 4 do
  local what, id, attempt, number = ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3])
  local mine = redis.call('HGET', held, id) == attempt .. ' ' .. me
  if mine and what == 'extend' then
    redis.call('ZADD', leases, now + me:match('%.(%d+)$'), id)
  elseif mine and what == 'nack' then
    let_go(record, waiting, id, attempt, now + number)
    waits = true
  elseif mine and what == 'back' then
    let_go(record, waiting, id, number, now)
    waits = true
  elseif mine and what == 'unread' then
    -- Nobody ever saw it: as if it had not been taken.
    back[#back + 1] = redis.call('HGET', taken, id)
    done[#done + 1] = id
    waits = true
  end
  took[#took + 1] = mine and '1' or '0'
end
-- The oldest comes last, and is taken first.
for i = #back, 1, -1 do redis.call('RPUSH', list, back[i]) end
if #done > 0 then
  redis.call('HDEL', taken, unpack(done))
  redis.call('HDEL', held, unpack(done))
  redis.call('ZREM', leases, unpack(done))
end
if waits then hint(ARGV[7]) end
return {now, table.concat(took)}
