-- Writes a key. ARGV: channel, key, value, 'always' or 'absent' or 'is', the revision of 'is', the lease or ''.
-- Answers the revision.
if not sweep() then return {BUSY, 0} end
local key, when, lease = ARGV[2], ARGV[4], ARGV[6]
if lease ~= '' and not redis.call('ZSCORE', LEASES, lease) then return {NO_LEASE, 0} end
local created, at, old = about(key)
if when == 'absent' and at or when == 'is' and at ~= ARGV[5] then return {CONFLICT, tonumber(at or 0)} end
local before = rev
step()
if not at then
  redis.call('ZADD', NAMES, 0, key)
  redis.call('ZREM', GRAVES, key)
elseif old ~= '' and old ~= lease then
  redis.call('ZREM', LEASED, old .. ' ' .. key)
end
if lease ~= '' then redis.call('ZADD', LEASED, 0, lease .. ' ' .. key) end
redis.call('HSET', VALUES, key, ARGV[3])
redis.call('HSET', META, key, (created or whole(rev)) .. ' ' .. whole(rev) .. ' ' .. lease)
redis.call('ZADD', CHANGES, whole(rev), key)
tell(before, key)
return {FINE, rev}
