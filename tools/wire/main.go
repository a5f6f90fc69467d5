// wire makes eth0 of the test microVM a wire whose other end is the console: for frames that no system would send.
//
// Each line of standard input is a frame in hexadecimal. It is sent as it is, and confirmed by a line ">", followed by
// the error if there was one. Each frame that comes in is a line "<", followed by the frame in hexadecimal.
package main

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
)

const (
	link      = "eth0"
	anyFrame  = 0x0300 // ETH_P_ALL in the network's byte order
	ownFrame  = 4      // PACKET_OUTGOING
	frameSize = 2048
)

// console keeps lines of the two directions apart.
type console struct {
	lock sync.Mutex
}

func (c *console) print(line string) {
	c.lock.Lock()
	defer c.lock.Unlock()
	fmt.Println(line)
}

func main() {
	wire, address, err := open()
	if err != nil {
		fmt.Println("wire:", err)
		os.Exit(1)
	}
	shown := &console{}
	go hear(wire, shown)
	shown.print("WIRE READY")
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		shown.print(strings.TrimSpace("> " + send(wire, address, lines.Text())))
	}
}

// open returns a socket for all frames of the link, and the link as an address.
func open() (int, *syscall.SockaddrLinklayer, error) {
	eth, err := net.InterfaceByName(link)
	if err != nil {
		return 0, nil, err
	}
	wire, err := syscall.Socket(syscall.AF_PACKET, syscall.SOCK_RAW, anyFrame)
	if err != nil {
		return 0, nil, err
	}
	address := &syscall.SockaddrLinklayer{Protocol: anyFrame, Ifindex: eth.Index}
	return wire, address, syscall.Bind(wire, address)
}

// send sends a frame, and returns the error as text.
func send(wire int, address *syscall.SockaddrLinklayer, line string) string {
	frame, err := hex.DecodeString(strings.TrimSpace(line))
	if err == nil {
		err = syscall.Sendto(wire, frame, 0, address)
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

// hear prints what comes in.
func hear(wire int, shown *console) {
	frame := make([]byte, frameSize)
	for {
		size, from, err := syscall.Recvfrom(wire, frame, 0)
		if err != nil {
			continue
		}
		if sender, ok := from.(*syscall.SockaddrLinklayer); ok && sender.Pkttype == ownFrame {
			continue
		}
		shown.print("< " + hex.EncodeToString(frame[:size]))
	}
}
