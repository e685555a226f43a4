package zfs

// DestroyProgram is a channel program (zfs-program(8)) that destroys what its arguments name, in their order, each
// on its own, and returns the errno of each that failed. One program is one or two txgs, however many names it
// has, and it unmounts nothing: the zfs destroy command would.
const DestroyProgram = `
args = ...
failed = {}
for _, name in ipairs(args["argv"]) do
	errno = zfs.sync.destroy(name)
	if errno ~= 0 then
		failed[name] = errno
	end
end
return failed
`

// DestroyBatch bounds the names of one channel program, whose memory and instructions the kernel limits.
const DestroyBatch = 200
