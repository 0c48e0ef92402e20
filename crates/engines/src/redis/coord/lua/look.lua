-- Tells what changed. ARGV: channel, prefix, the revision up to which changes are known, that up to which deletions are, and the first
-- and the last key of the prefix as ZRANGE takes them.
-- Answers the revision up to which changes are known now, whether that is all, {key, revision, meta, value} of each change, in their
-- order, meta being '' for one that is gone; and, if deletions were forgotten, {key, revision} of all that is there.
if not sweep() then return {BUSY, 0} end
local prefix, after, handled = ARGV[2], ARGV[3], tonumber(ARGV[4])
-- The server lost what it knew: what is gone with that is told as gone by now.
if rev < tonumber(after) then
  local before = rev
  step()
  tell(before, '')
end
local found = redis.call('ZRANGE', CHANGES, '(' .. after, '+inf', 'BYSCORE', 'LIMIT', 0, 1000, 'WITHSCORES')
local changes, size, all = {}, 0, #found < 2000
for i = 1, #found, 2 do
  local key, at = found[i], found[i + 1]
  after = at
  if key:sub(1, #prefix) == prefix then
    local meta = redis.call('HGET', META, key)
    local value = meta and redis.call('HGET', VALUES, key) or ''
    changes[#changes + 1], size = {key, at, meta or '', value}, size + #value
    if size > 4000000 and i + 2 < #found then
      all = false
      break
    end
  end
end
if not all then return {FINE, {after, 0, changes, false}} end
local there = false
if handled == 0 or handled < tonumber(redis.call('HGET', STATE, 'forgotten') or 0) then
  there = redis.call('ZRANGE', NAMES, ARGV[5], ARGV[6], 'BYLEX')
  for i, key in ipairs(there) do
    local _, at = about(key)
    there[i] = {key, at}
  end
end
return {FINE, {whole(rev), 1, changes, there}}
