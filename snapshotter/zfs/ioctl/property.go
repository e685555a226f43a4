package ioctl

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/pvelxc/pvelxc/snapshotter/zfs"
	"github.com/pvelxc/pvelxc/snapshotter/zfs/nvlist"
)

// indexed are the values of native properties that are numbers to the kernel (module/zcommon/zfs_prop.c),
// as far as a snapshotter sets them.
var indexed = map[string]map[string]uint64{
	"atime":       {"off": 0, "on": 1},
	"canmount":    {"off": 0, "on": 1, "noauto": 2},
	"compression": {"on": 1, "off": 2, "lz4": 15, "zstd": 16},
	"xattr":       {"off": 0, "on": 1, "sa": 2},
	"acltype":     {"off": 0, "posix": 1, "posixacl": 1},
	"dnodesize":   {"legacy": 0, "auto": 1},
	"readonly":    {"off": 0, "on": 1},
}

// pack makes the kernel's form of properties.
func pack(op, name string, props map[string]string) (nvlist.List, error) {
	l := nvlist.List{}
	for property, value := range props {
		values, isIndex := indexed[property]
		switch {
		case strings.Contains(property, ":"), property == "mountpoint":
			l[property] = value
		case isIndex:
			n, ok := values[value]
			if !ok {
				return nil, invalid(op, name, property, value)
			}
			l[property] = n
		case property == "refquota", property == "quota":
			n, err := strconv.ParseUint(value, 10, 64)
			if err != nil && value != "none" {
				return nil, invalid(op, name, property, value)
			}
			l[property] = n
		default:
			return nil, invalid(op, name, property, value)
		}
	}
	return l, nil
}

func invalid(op, name, property, value string) error {
	return &zfs.Error{Op: op, Name: name, Kind: zfs.ErrInvalid, Detail: fmt.Sprintf("property %s=%q", property, value)}
}

// info makes the answer of a stats request: {property: {"value": v, "source": s}}.
func info(name string, stats nvlist.List) zfs.Info {
	number := func(property string) uint64 {
		p, _ := stats[property].(nvlist.List)
		n, _ := p["value"].(uint64)
		return n
	}
	text := func(property string) string {
		p, _ := stats[property].(nvlist.List)
		s, _ := p["value"].(string)
		return s
	}
	i := zfs.Info{
		Name:          name,
		GUID:          number("guid"),
		CreateTXG:     number("createtxg"),
		Origin:        text("origin"),
		Used:          number("used"),
		UsedByDataset: number("usedbydataset"),
		Referenced:    number("referenced"),
		Written:       number("written"),
		Available:     number("available"),
		Refquota:      number("refquota"),
		Mountpoint:    text("mountpoint"),
		User:          map[string]string{},
		Local:         map[string]string{},
	}
	for property := range stats {
		if !strings.Contains(property, ":") {
			continue
		}
		i.User[property] = text(property)
		p, _ := stats[property].(nvlist.List)
		if source, _ := p["source"].(string); source == name {
			i.Local[property] = i.User[property]
		}
	}
	return i
}
