-- Writes down that the owner of a partition hands these out now.
-- KEYS: stream, record of the group, waiting. ARGV: group, consumer, fence, then ids and attempts in turn.
-- Answers now, and a 1 for each that is still there; nothing if the partition has another owner.
local stream, record, waiting = KEYS[1], KEYS[2], KEYS[3]
local group, me = ARGV[1], ARGV[2]
local about = redis.call('HMGET', record, 'owner', 'fence')
if about[1] ~= me or about[2] ~= ARGV[3] then return {now, ''} end
local took = {}
for i = 4, #ARGV, 2 do
  local moved = redis.call('XCLAIM', stream, group, me, 0, ARGV[i], 'RETRYCOUNT', ARGV[i + 1], 'JUSTID')
  redis.call('ZREM', waiting, ARGV[i])
  took[#took + 1] = #moved > 0 and '1' or '0'
end
return {now, table.concat(took)}
