/* Makes a processor say that it has AVX2 and nothing beyond: no AVX-512, VNNI, AVX-VNNI or AMX.

   cc -O2 -shared -fPIC -o without_avx512.so without_avx512.c
   LD_PRELOAD=$PWD/without_avx512.so oslic bench latency ...

   Linux on x86-64 whose processor can fault on CPUID (cpuid_fault in /proc/cpuinfo). Libraries that ask CPUID choose their
   kernels by what they are told, so that those for AVX2 run natively, at their own speed, on a newer machine. */
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <cpuid.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

static void allow(int on) { syscall(SYS_arch_prctl, ARCH_SET_CPUID, on); }

static void on_fault(int number, siginfo_t *info, void *context) {
  (void)info;
  greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
  const unsigned char *at = (const unsigned char *)r[REG_RIP];
  if (at[0] != 0x0f || at[1] != 0xa2) {
    signal(number, SIG_DFL);
    return;
  }
  unsigned leaf = (unsigned)r[REG_RAX], sub = (unsigned)r[REG_RCX], a, b, c, d;
  allow(1);
  __cpuid_count(leaf, sub, a, b, c, d);
  allow(0);
  if (leaf == 7 && sub == 0) {
    b &= ~(1u << 16 | 1u << 17 | 1u << 21 | 1u << 26 | 1u << 27 | 1u << 28 | 1u << 30 | 1u << 31);
    c &= ~(1u << 1 | 1u << 6 | 1u << 11 | 1u << 12 | 1u << 14);
    d &= ~(1u << 2 | 1u << 3 | 1u << 8 | 1u << 22 | 1u << 23 | 1u << 24 | 1u << 25);
  } else if (leaf == 7 || (leaf >= 0x1d && leaf <= 0x24)) {
    a = b = c = d = 0;
  }
  r[REG_RAX] = a, r[REG_RBX] = b, r[REG_RCX] = c, r[REG_RDX] = d;
  r[REG_RIP] += 2;
}

__attribute__((constructor)) static void start(void) {
  struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
  sigaction(SIGSEGV, &action, NULL);
  if (syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0)) { perror("no CPUID faulting"); _exit(2); }
}
