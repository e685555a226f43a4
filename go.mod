module github.com/pvelxc/pvelxc

go 1.26
