package bootstrap

import "time"

// params is containerd.runtime.bootstrap.v1.BootstrapParams without what start does not need.
type params struct {
	id, namespace string
	level         int32
	socketDir     string
	ttrpc         string // containerd's ttrpc socket
	grpc          string // containerd's gRPC socket
	binary        string // containerd's program
}

// levelDebug is LOG_LEVEL_DEBUG; what is more verbose is less.
const levelDebug = -4

func decodeParams(message []byte) (p params, err error) {
	for len(message) > 0 {
		var f field
		if f, message, err = nextField(message); err != nil {
			return params{}, err
		}
		if f.number == 3 && f.wire == wireVarint {
			p.level = int32(f.value)
		}
		if f.wire != wireBytes {
			continue
		}
		to := map[uint64]*string{1: &p.id, 2: &p.namespace, 4: new(string), 5: &p.ttrpc, 6: &p.grpc, 7: &p.binary, 9: &p.socketDir}[f.number]
		if to == nil {
			continue
		}
		if *to, err = f.text(); err != nil {
			return params{}, err
		}
	}
	return p, nil
}

// encodeResult encodes a containerd.runtime.bootstrap.v1.BootstrapResult.
func encodeResult(version int32, address string) []byte {
	message := appendVarint(nil, 1, uint64(version))
	message = appendBytes(message, 2, address)
	return appendBytes(message, 3, "ttrpc")
}

// encodeDeleted encodes a containerd.task.v2.DeleteResponse.
func encodeDeleted(pid, status uint32, at time.Time) []byte {
	stamp := appendVarint(nil, 1, uint64(at.Unix()))
	stamp = appendVarint(stamp, 2, uint64(at.Nanosecond()))
	message := appendVarint(nil, 1, uint64(pid))
	message = appendVarint(message, 2, uint64(status))
	return appendBytes(message, 3, stamp)
}
