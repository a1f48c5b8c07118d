-- Puts an entry that was not imported back where it was taken from; the end that is taken from first.
-- KEYS and ARGV[1] as in take.lua. ARGV[2]: the entry of the import's list.
-- Answers 1, or 0 if it was not in the import's list.
if redis.call('LREM', KEYS[2], 1, ARGV[2]) == 0 then
    return 0
end
local score, entry = string.match(ARGV[2], '^(%S+) (.*)$')
if ARGV[1] == 'list' then
    redis.call('RPUSH', KEYS[1], entry)
elseif ARGV[1] == 'sorted' then
    redis.call('ZADD', KEYS[1], score, entry)
else
    local tag, message = string.match(entry, '^([^\n]*)\n(.*)$')
    redis.call('HSET', KEYS[3], tag, message)
    redis.call('ZADD', KEYS[1], score, tag)
end
return 1
