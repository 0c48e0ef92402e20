-- Ends leases whose time is over, for those who watch. ARGV: channel. Answers the revision, in how many microseconds the next
-- lease ends (-1: there is none), and which history the server tells: it has another one after a restart or a failover.
if not sweep() then return {BUSY, 0} end
local first = redis.call('ZRANGE', LEASES, 0, 0, 'WITHSCORES')[2]
local info = redis.pcall('INFO', 'replication')
local history = type(info) == 'string' and info:match('master_replid:(%w+)') or ''
return {FINE, {rev, first and first - micros or -1, history}}
