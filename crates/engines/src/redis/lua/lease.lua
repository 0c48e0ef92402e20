-- Renews the lease of a partition, or ends it when its length is 0.
-- KEYS: record of the group. ARGV: consumer, fence, lease in ms, channel of hints. Answers 1 if it was the member's.
local about = redis.call('HMGET', KEYS[1], 'owner', 'fence')
if about[1] ~= ARGV[1] or about[2] ~= ARGV[2] then return 0 end
if ARGV[3] == '0' then
  redis.call('HSET', KEYS[1], 'owner', '', 'until', 0)
  hint(ARGV[4])
else
  redis.call('HSET', KEYS[1], 'until', now + ARGV[3])
end
return 1
