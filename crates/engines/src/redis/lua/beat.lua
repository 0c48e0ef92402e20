-- Tells that a member lives, and who else does. KEYS: groups, members.
-- ARGV: group, birth of the group, consumer, lease in ms, number, whether it keeps an order, whether it wants partitions,
-- its partitions. Answers {number, wants, partitions, consumer} of each living member.
local entry = redis.call('HGET', KEYS[1], ARGV[1])
if entry ~= ARGV[2] then return redis.error_reply('LPGONE the group was removed') end
if ARGV[4] == '0' then
  redis.call('HDEL', KEYS[2], ARGV[3])
  return {}
end
redis.call('HSET', KEYS[2], ARGV[3],
  string.format('%d|%s|%s|%s|%s', now + ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]))
local living, members = {}, redis.call('HGETALL', KEYS[2])
for i = 1, #members, 2 do
  local due, number, _, wants, only = members[i + 1]:match('^(%d+)|(%d+)|(%d)|(%d)|(.*)$')
  if due and tonumber(due) > now then
    living[#living + 1] = {tonumber(number), tonumber(wants), only, members[i]}
  elseif due and tonumber(due) + 60000 < now then
    redis.call('HDEL', KEYS[2], members[i])
  end
end
return living
