# From the loader to Rust, and from the processor's exceptions back: what no Rust function can be.
#
# The names in braces are Rust's: `start`, `exception`, the page tables `root`, `level3` and `level2`, the stack, the
# latches `latched`, the timer's count `ticks`.

# PVH: note 18 of "Xen" names the 32-bit entry. The machine is then in protected mode with flat segments, paging and
# interrupts off, and the address of the loader's structure is in ebx.
.section .note.pvh, "a", @note
.balign 4
    .long 4, 8, 18
    .asciz "Xen"
    .quad pvh_entry

.section .text.pvh_entry, "ax", @progbits
.code32
.global pvh_entry
pvh_entry:
    cli
    cld
    mov esp, offset {stack} + {stack_size}
    mov edi, ebx

    # The first 4 GiB at their own addresses, in pages of 2 MiB; the upper 2 GiB, where devices are, uncached.
    mov eax, offset {level3} + 3
    mov [{root}], eax
    mov eax, offset {level2} + 3
    mov ecx, offset {level3}
1:  mov [ecx], eax
    add eax, 0x1000
    add ecx, 8
    cmp ecx, offset {level3} + 32
    jb 1b
    xor ecx, ecx
1:  mov eax, ecx
    shl eax, 21
    or eax, 0x83
    cmp ecx, 1024
    jb 2f
    or eax, 0x18
2:  mov [{level2} + ecx * 8], eax
    inc ecx
    cmp ecx, 2048
    jb 1b

    # SSE before any Rust: the target's own library is compiled with it. CR4: PAE, OSFXSR, OSXMMEXCPT.
    mov eax, cr4
    or eax, 0x620
    mov cr4, eax
    mov eax, offset {root}
    mov cr3, eax
    # EFER: LME, NXE.
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x900
    wrmsr
    # CR0: paging, write protection, MP, and no emulation of the floating-point unit.
    mov eax, cr0
    and eax, 0xfffffffb
    or eax, 0x80010002
    mov cr0, eax
    lgdt [boot_gdt_pointer]
    mov eax, 8
    push eax
    mov eax, offset long_mode
    push eax
    retf

.code64
long_mode:
    mov eax, 16
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    mov esp, offset {stack} + {stack_size}
    # The floating-point units as the processor's reset leaves them: no loader promises that.
    fninit
    push 0x1f80
    ldmxcsr [rsp]
    pop rax
    xor ebp, ebp
    mov edi, edi
    call {start}
    ud2

.section .rodata.boot, "a", @progbits
.balign 8
boot_gdt:
    .quad 0, 0x00209b0000000000, 0x0000930000000000
boot_gdt_pointer:
    .word 23
    .long boot_gdt

# What exceptions and interrupts enter: 16 bytes for each vector. They come on stacks of their own (IST), for the red
# zone below the interrupted function's stack pointer may be in use; and they touch no register of SSE.
.section .text.entries, "ax", @progbits
.balign 16
.global exception_entries
exception_entries:
.set vector, 0
.rept 32
    .if vector == 14
    jmp page_fault
    .else
    # 8, 10 to 13, 17, 21, 29 and 30 come with an error code; the others get one here.
    .if ((0x60223d00 >> vector) & 1) == 0
    push 0
    .endif
    push vector
    jmp fault
    .endif
    .set vector, vector + 1
    # An entry that does not fit is an error of the assembler's: it goes no way back.
    .org exception_entries + 16 * vector, 0xcc
.endr

.balign 16
.global interrupt_entries
interrupt_entries:
.rept 224
    .if vector == {spurious}
    # Nothing is in service in the local APIC: an end of interrupt would be another's.
    iretq
    .elseif vector == {timer}
    lock inc qword ptr [{ticks}]
    jmp end_of_interrupt
    .else
    lock bts qword ptr [{latched} + (vector / 64) * 8], vector % 64
    jmp end_of_interrupt
    .endif
    .set vector, vector + 1
    .org interrupt_entries + 16 * (vector - 32), 0xcc
.endr

end_of_interrupt:
    push rax
    mov eax, 0xfee000b0
    mov dword ptr [rax], 0
    pop rax
    iretq

# An access of the guest's that no window covers goes on at `guest_trapped`, and so tells whoever made it.
page_fault:
    push rax
    push rcx
    mov rax, [rsp + 24]
    mov rcx, offset guest_accesses
    cmp rax, rcx
    jb 1f
    mov rcx, offset guest_accesses_end
    cmp rax, rcx
    jae 1f
    mov rax, offset guest_trapped
    mov [rsp + 24], rax
    pop rcx
    pop rax
    add rsp, 8
    iretq
1:  pop rcx
    pop rax
    push 14
    jmp fault

fault:
    cld
    mov rdi, rsp
    and rsp, -16
    call {exception}
    ud2

# The guest's accesses. Each faults in its first instruction or not at all, and has nothing on the stack then.
.balign 16
guest_accesses:
.global guest_read_1
guest_read_1:
    movzx eax, byte ptr [rdi]
    xor edx, edx
    ret
.global guest_read_2
guest_read_2:
    movzx eax, word ptr [rdi]
    xor edx, edx
    ret
.global guest_read_4
guest_read_4:
    mov eax, [rdi]
    xor edx, edx
    ret
.global guest_read_8
guest_read_8:
    mov rax, [rdi]
    xor edx, edx
    ret
.global guest_write_1
guest_write_1:
    mov [rdi], sil
    xor edx, edx
    ret
.global guest_write_2
guest_write_2:
    mov [rdi], si
    xor edx, edx
    ret
.global guest_write_4
guest_write_4:
    mov [rdi], esi
    xor edx, edx
    ret
.global guest_write_8
guest_write_8:
    mov [rdi], rsi
    xor edx, edx
    ret
guest_accesses_end:
guest_trapped:
    xor eax, eax
    mov edx, 1
    ret

# What the compiler takes for granted, and a C library would have.
.section .text.memory, "ax", @progbits
.global memcpy
memcpy:
    mov rax, rdi
    mov rcx, rdx
    rep movsb
    ret
.global memmove
memmove:
    mov rax, rdi
    mov rcx, rdx
    mov r8, rdi
    sub r8, rsi
    cmp r8, rdx
    jb 1f
    rep movsb
    ret
1:  lea rdi, [rdi + rdx - 1]
    lea rsi, [rsi + rdx - 1]
    std
    rep movsb
    cld
    ret
.global memset
memset:
    mov r8, rdi
    mov eax, esi
    mov rcx, rdx
    rep stosb
    mov rax, r8
    ret
.global bcmp
.global memcmp
bcmp:
memcmp:
    xor eax, eax
    xor ecx, ecx
1:  cmp rcx, rdx
    je 2f
    movzx eax, byte ptr [rdi + rcx]
    movzx r8d, byte ptr [rsi + rcx]
    inc rcx
    sub eax, r8d
    je 1b
2:  ret
