-- Removes a key. ARGV: channel, key, 'always' or 'is', the revision of 'is'. Answers whether it was there.
if not sweep() then return {BUSY, 0} end
local _, at, lease = about(ARGV[2])
if not at then return {FINE, 0} end
if ARGV[3] == 'is' and at ~= ARGV[4] then return {CONFLICT, tonumber(at)} end
local before = rev
bury(ARGV[2], lease)
tell(before, ARGV[2])
return {FINE, 1}
