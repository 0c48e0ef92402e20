-- Creates the record of a topic, or changes it. KEYS: record of the topic.
-- ARGV: partitions, its birth if it is new, retention age in ms, retention length, size limit.
-- Answers {partitions, birth, whether it is complete}; nothing is changed if the number of partitions differs.
local about = redis.call('HMGET', KEYS[1], 'partitions', 'born', 'ready')
if about[1] and about[1] ~= ARGV[1] then return {tonumber(about[1]), about[2], 1} end
local born = about[2] or ARGV[2]
redis.call('HSET', KEYS[1], 'partitions', ARGV[1], 'born', born, 'retention_age', ARGV[3], 'retention_length', ARGV[4],
  'max_message', ARGV[5])
return {tonumber(ARGV[1]), born, about[3] == '1' and 1 or 0}
