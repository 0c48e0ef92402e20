-- Reads messages that were never handed out, for the owner of a partition. They wait until they are marked.
-- KEYS: stream, record of the group, waiting, delayed. ARGV: group, consumer, birth, fence, how many, channel of hints.
-- Answers now, whether the partition is still the member's, when something is due (-1: nothing), and the entries.
local stream, record, waiting, delayed = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group = ARGV[1]
local about = redis.call('HMGET', record, 'born', 'owner', 'fence')
if about[1] ~= ARGV[3] then return redis.error_reply('LPGONE the group was removed') end
if about[2] ~= ARGV[2] or about[3] ~= ARGV[4] then return {now, 0, -1, {}} end
release(stream, delayed, ARGV[6])
local due = first_due(delayed) or -1
local read = redis.call('XREADGROUP', 'GROUP', group, WAITING, 'COUNT', ARGV[5], 'STREAMS', stream, '>')
if not read then return {now, 1, due, {}} end
local entries, ids, scores = read[1][2], {}, {}
for i, entry in ipairs(entries) do
  ids[i] = entry[1]
  scores[2 * i - 1], scores[2 * i] = now, entry[1]
end
ids[#ids + 1], ids[#ids + 2], ids[#ids + 3] = 'RETRYCOUNT', 0, 'JUSTID'
redis.call('XCLAIM', stream, group, WAITING, 0, unpack(ids))
redis.call('ZADD', waiting, unpack(scores))
return {now, 1, due, entries}
