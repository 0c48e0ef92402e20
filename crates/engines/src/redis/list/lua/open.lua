-- Makes a group known to a partition; the first one takes over what was kept for it.
-- KEYS: list, record of the group, waiting, delayed, record of the partition, its list. ARGV: group, its birth.
-- Answers 0 if it was known.
local list, record, waiting, delayed, part, base = unpack(KEYS)
if redis.call('HEXISTS', part, 'born') == 0 then return redis.error_reply('LPGONE the topic was removed') end
local born = redis.call('HGET', record, 'born')
if born == ARGV[2] then return 0 end
-- What was due before there was this group isn't for it, unless it is the first.
enter(base, part, delayed, '')
-- A list without a record was begun by another program, for the group to come.
if born then wipe_group(list, record, waiting) end
if #groups_of(part) == 0 then
  -- In front of what another program began with: the oldest comes last, and is taken first.
  if redis.call('EXISTS', base) == 1 and redis.call('EXISTS', list) == 0 then redis.call('RENAME', base, list) end
  while redis.call('LMOVE', base, list, 'LEFT', 'RIGHT') do end
end
redis.call('HSET', part, 'g:' .. ARGV[1], ARGV[2])
redis.call('HSET', record, 'born', ARGV[2])
return 1
