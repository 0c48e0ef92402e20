-- Adds a member to a group, creating the group's entry if need be. KEYS: record of the topic, groups, members.
-- ARGV: group, its birth if it is new, consumer, lease of the membership in ms, whether it keeps an order, its partitions.
-- Answers {birth, whether the partitions know it, number of the member}.
local group, ordered = ARGV[1], ARGV[5]
if redis.call('HGET', KEYS[1], 'ready') ~= '1' then return redis.error_reply('LPNOTOPIC the topic was removed') end
local members = redis.call('HGETALL', KEYS[3])
for i = 1, #members, 2 do
  local due, _, theirs = members[i + 1]:match('^(%d+)|(%d+)|(%d)')
  if due and tonumber(due) > now and theirs ~= ordered then
    return redis.error_reply('LPORDER ' .. (tonumber(due) - now))
  end
end
local entry = redis.call('HGET', KEYS[2], group)
if not entry then
  entry = '?' .. ARGV[2]
  redis.call('HSET', KEYS[2], group, entry)
end
local number = redis.call('HINCRBY', KEYS[1], 'members', 1)
local value = string.format('%d|%d|%s|1|%s', now + ARGV[4], number, ordered, ARGV[6])
redis.call('HSET', KEYS[3], ARGV[3], value)
if entry:sub(1, 1) == '?' then return {entry:sub(2), 0, number} end
return {entry, 1, number}
